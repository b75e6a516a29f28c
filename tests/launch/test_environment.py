"""Variables that ranks get, and secrets that nobody sees."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.cli import main
from hnet.errors import ConfigError
from hnet_launch.backends.deepspeed import DeepSpeedBackend
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment, collect, without_secrets
from hnet_launch.job import Command, Job

Tools = Callable[..., Callable[[], list[dict[str, Any]]]]

SHELL = {
    "HOME": "/home",
    "PATH": "/bin",
    "NCCL_DEBUG": "INFO",
    "CUDA_VISIBLE_DEVICES": "0",
    "CUDA_HOME": "/usr/cuda",
    "TORCHELASTIC_RUN_ID": "1",
    "HF_TOKEN": "hf_secret",
    "WANDB_API_KEY": "wandb_secret",
    "EDITOR": "vi",
    "AWS_SECRET_ACCESS_KEY": "aws_secret",
}


def test_only_what_ranks_need_is_passed_on() -> None:
    environment = collect(SHELL, ["EDITOR", "MINE=a=b", "AWS_SECRET_ACCESS_KEY"])
    expected = {"PATH": "/bin", "NCCL_DEBUG": "INFO", "CUDA_HOME": "/usr/cuda", "EDITOR": "vi", "MINE": "a=b"}
    assert environment.variables == expected
    assert set(environment.secrets) == {"HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY"}
    assert "secret" not in repr(environment).replace("secrets", "")


def test_paths_of_modules_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert collect({"PYTHONPATH": ".:kernels:/x"}).variables["PYTHONPATH"] == f"{tmp_path}:{tmp_path}/kernels:/x"


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("NOT-A-NAME=1", "--env NOT-A-NAME: not the name of a variable"),
        ("ABSENT", "--env ABSENT: the variable is not set here"),
        ("TWO=a\nb", "variable TWO has a line break"),
    ],
)
def test_what_cannot_be_passed_on_is_told(extra: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        collect(SHELL, [extra])


def test_a_command_line_is_written_down_without_secrets() -> None:
    words = [
        "hnet",
        "launch",
        "--env",
        "A_TOKEN=x",
        "--env=B_KEY=y",
        "--env",
        "C=z",
        "data.tokenizer=bytes",
        "--env",
        "D_KEY",
    ]
    shown = [
        "--env",
        "A_TOKEN=(hidden)",
        "--env=B_KEY=(hidden)",
        "--env",
        "C=z",
        "data.tokenizer=bytes",
        "--env",
        "D_KEY",
    ]
    assert without_secrets(words) == ["hnet", "launch", *shown]


@pytest.mark.parametrize("name", ["WANDB_PASS", "HTTP_AUTH", "MINE_PASSWORD"])
def test_a_name_tells_a_secret(name: str) -> None:
    assert collect({}, [f"{name}=x", "MINE=y"]) == Environment({"MINE": "y"}, {name: "x"})


def test_an_address_with_a_password_is_a_secret() -> None:
    value = "redis://user:word@store"
    assert collect({}, [f"PROXY={value}", "PLAIN=redis://store"]).secrets == {"PROXY": value}
    words = ["--env", f"PROXY={value}", f"data.train={value}/x"]
    assert without_secrets(words) == ["--env", "PROXY=(hidden)", "data.train=redis://(hidden)@store/x"]


def test_an_abbreviated_option_is_refused(run_file: Path, capsys: Any) -> None:
    assert main(["launch", str(run_file), "--dry-run", "--en", "X_TOKEN=value"]) == 2
    said = capsys.readouterr()
    assert "unknown argument: --en" in said.err and "value" not in said.out + said.err


def _command(launcher: str, environment: Environment, folder: Path) -> Command:
    cluster = ClusterConfig(nodes=2, gpus_per_node=2, hosts=("a", "b"))
    return DeepSpeedBackend(cluster, launcher).command(Job("hnet.train", ("run.yaml",), environment, folder))


@pytest.mark.parametrize("launcher", ["pdsh", "openmpi"])
def test_secrets_are_in_no_command_and_no_description(launcher: str, tmp_path: Path, tools: Tools) -> None:
    tools(pdsh="", ompi_info="")
    command = _command(launcher, collect(SHELL), tmp_path)
    for text in (" ".join(command.argv), command.describe(), repr(command), *command.files.values()):
        assert "hf_secret" not in text and "wandb_secret" not in text
    assert "HF_TOKEN=(hidden)" in command.describe()
    assert command.environment.all()["HF_TOKEN"] == "hf_secret"


def test_pdsh_hands_secrets_over_in_a_file_of_the_user(tmp_path: Path, tools: Tools) -> None:
    tools(pdsh="")
    command = _command("pdsh", collect(SHELL), tmp_path)
    command.write_files()
    (path,) = command.secret_files
    assert path.stat().st_mode & 0o777 == 0o600
    assert "hf_secret" in path.read_text()
    assert f"HNET_LAUNCH_SECRETS={path}" in (tmp_path / "deepspeed_env").read_text()
    command.remove_secrets()
    assert not path.exists()


def test_values_survive_the_quotes_of_deepspeed_and_a_shell(tmp_path: Path, tools: Tools) -> None:
    tools(pdsh="")
    values = ['a "b" $HOME', "`x`\\", "plain-1.0", "it's; *"]
    environment = Environment({f"V{index}": value for index, value in enumerate(values)})
    lines = _command("pdsh", environment, tmp_path).files[tmp_path / "deepspeed_env"].splitlines()
    for value, line in zip(values, lines, strict=True):
        name, _, written = line.partition("=")
        # As deepspeed.launcher.multinode_runner.MultiNodeRunner.add_export does.
        quoted = f'"{written}"' if re.search(r"[^\w@%+=:,./-]", written) else written
        shell = subprocess.run(["bash", "-c", f'export {name}={quoted}; printf %s "${name}"'], capture_output=True)
        assert shell.stdout.decode() == value
