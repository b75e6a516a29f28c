"""The Dockerfiles, their context and their health check, as far as they can be looked at without building them."""

import fnmatch
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = ["Dockerfile", "Dockerfile.cpu"]


def _instructions(name: str) -> list[tuple[str, str]]:
    """Every instruction of a Dockerfile with its argument, continued lines joined."""
    lines = [line for line in (DOCKER / name).read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_every_package_of_an_image_is_pinned_by_the_constraints(name: str) -> None:
    commands = [rest for word, rest in _instructions(name) if word == "RUN"]
    pips = [part for command in commands for part in re.findall(r"pip (?:install|wheel).*?(?=&&|;|$)", command)]
    assert len(pips) >= 6
    free = [part for part in pips if "constraints.txt" not in part and "--no-deps" not in part]
    assert not free, "\n".join(free)
    compiled = [part for part in pips if "--no-deps" in part and "package" not in part]
    assert all("constraints.txt" in part for part in compiled), "\n".join(compiled)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_runs_hnet_as_a_user_without_rights(name: str) -> None:
    instructions = _instructions(name)
    last = dict(instructions)
    assert json.loads(last["ENTRYPOINT"]) == ["hnet"]
    assert re.fullmatch(r"[1-9]\d*:0", last["USER"])
    assert json.loads(last["HEALTHCHECK"].partition(" CMD ")[2]) == ["hnet-healthcheck"]
    assert sum(word == "FROM" for word, _ in instructions) == 2
    labels = last["LABEL"]
    assert all(f"org.opencontainers.image.{key}=" in labels for key in ("title", "description", "licenses", "revision"))


@pytest.mark.parametrize("name", DOCKERFILES)
def test_whatever_is_copied_is_there_and_in_the_context(name: str) -> None:
    sources = [source for word, rest in _instructions(name) if word == "COPY" for source in rest.split()[:-1]]
    patterns = _context_patterns()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert _is_sent(source, patterns), source


def test_the_context_leaves_out_runs_git_and_environments() -> None:
    patterns = _context_patterns()
    for path in (".git", "runs", ".venv", "tests", "docs", "hnet/__pycache__", "kernels/hnet_kernels/lib/x.so"):
        assert not _is_sent(path, patterns), path
    assert _is_sent("hnet", patterns) and _is_sent("constraints.txt", patterns)


def _context_patterns() -> list[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _is_sent(path: str, patterns: list[str]) -> bool:
    """Docker's rule: the last pattern that matches the path or a folder above it decides."""
    above = [path, *(parent.as_posix() for parent in Path(path).parents if parent.name)]
    sent = True
    for pattern in patterns:
        plain = pattern.removeprefix("!").removeprefix("**/")
        names = [Path(name).name if "**/" in pattern else name for name in above]
        if any(fnmatch.fnmatchcase(name, plain) for name in names):
            sent = pattern.startswith("!")
    return sent


def test_requirements_are_those_of_the_project() -> None:
    command = [sys.executable, DOCKER / "requirements.py", "tracking"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert any(line.startswith("torch>=") for line in lines) and any(line.startswith("wandb>=") for line in lines)
    assert not any(line.startswith("pytest") for line in lines)


def test_compose_reserves_gpus_shared_memory_and_time_to_save() -> None:
    service = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]["train"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"] and service["shm_size"] and service["stop_grace_period"]
    assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert not service["user"].startswith("0")


def _health(environment: dict[str, str], path: Path) -> subprocess.CompletedProcess[str]:
    path_variable = os.pathsep.join([str(path), os.environ["PATH"]])
    return subprocess.run(
        [sys.executable, DOCKER / "healthcheck.py"],
        env={"PATH": path_variable, **environment},
        capture_output=True,
        text=True,
    )


def test_health_follows_the_metrics_of_the_run(tmp_path: Path) -> None:
    run = {"HNET_OUTPUT_DIR": str(tmp_path)}
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("{}\n")
    assert _health(run, tmp_path).returncode == 0
    long_ago = time.time() - 1e9
    os.utime(metrics, (long_ago, long_ago))
    # An old file of an earlier container counts from the start of this one.
    stale = _health({**run, "HNET_HEALTH_SECONDS": "0"}, tmp_path)
    assert stale.returncode == 1 and "the limit is 0 s" in stale.stdout
    assert _health({**run, "HNET_HEALTH_SECONDS": "1e12"}, tmp_path).returncode == 0


@pytest.mark.parametrize("code", [0, 3])
def test_health_without_a_run_is_that_hnet_answers(tmp_path: Path, code: int) -> None:
    command = tmp_path / "hnet"
    command.write_text(f"#!/bin/sh\nexit {code}\n")
    command.chmod(0o755)
    assert _health({}, tmp_path).returncode == (code != 0)
