"""Four hosts for the tests of this folder, and a run that takes seconds.

Left out of `make test`: `make test-hosts` runs them, where there are root, namespaces and the tools.
"""

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hnet.config import load_config, save_config
from hnet.training.config import RunConfig
from tests.launch.hosts.bed import SLURM_TOOLS, TOOLS, Hosts, hosts, missing
from tests.launch.hosts.runs import PYTHONPATH, STEPS, Make, Report, losses
from tests.launch.hosts.slurm import slurm

TEXT = "the old king of the north rode out at dawn and came to a river where no bridge had ever been built"

_NO_HOSTS, _NO_SLURM = missing(TOOLS), missing((*TOOLS, *SLURM_TOOLS))
collect_ignore_glob = ["test_*.py"] if _NO_HOSTS else ["test_slurm.py"] if _NO_SLURM else []


def pytest_report_header() -> str:
    reason = _NO_HOSTS or _NO_SLURM
    return f"tests that need {'hosts' if _NO_HOSTS else 'Slurm'} are left out: {reason}" if reason else ""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _NO_HOSTS and exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(4, tmp_path_factory.mktemp("bed"), small_disk="32m") as made:
        yield made


@pytest.fixture
def nodes(bed: Hosts) -> Iterator[Hosts]:
    """The hosts as new: cables in, nothing of another test running or on the small disk."""
    yield bed
    for host in bed:
        bed.mend(host)
        host.kill_all(sys.executable)
    bed[0].run(f"rm -rf {bed.folder}/small/*")


@pytest.fixture(scope="session")
def slurm_variables(bed: Hosts) -> dict[str, str]:
    return slurm(bed)


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make_run(folder, "training.steps=3", ...)`: write `folder/run.yaml`, a tiny run with output in `folder/run`."""
    texts, words = tmp_path_factory.mktemp("text"), random.Random(0)
    for name, num_lines in (("train", 300), ("validation", 20)):
        lines = (" ".join(words.choices(TEXT.split(), k=9)) + ".\n" for _ in range(num_lines))
        (texts / f"{name}.txt").write_text("".join(lines))
    training = {"steps": STEPS, "global_batch_bytes": 512, "checkpoint_every": 5, "log_every": 1, "peak_flops": 1e10}
    tree = {
        "model": "hnet_tiny",
        "data": {
            "train": str(texts / "train.txt"),
            "validation": str(texts / "validation.txt"),
            "sequence_length": 128,
            "validation_bytes": 500,
        },
        "training": {**training, "ratio_loss_scope": "global_batch"},
        "optimizer": {"learning_rate": 2e-3},
        "logging": {"progress": False},
    }

    def make(folder: Path, *overrides: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        config = load_config(RunConfig, {"output_dir": str(folder / "run"), **tree}, overrides)
        save_config(config, folder / "run.yaml")
        return folder / "run.yaml"

    return make


@pytest.fixture(scope="session")
def undisturbed(bed: Hosts, make_run: Make, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one process on one host, step by step."""
    run_file = make_run(tmp_path_factory.mktemp("undisturbed"))
    command = [sys.executable, "-m", "hnet.train", str(run_file)]
    bed[0].run(command, timeout=300, PYTHONPATH=PYTHONPATH, OMP_NUM_THREADS="1")
    return losses(run_file.parent / "run")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """`report(text)` prints one line, whatever pytest captures, with the seconds since the test began."""
    began, capture = time.monotonic(), request.config.pluginmanager.getplugin("capturemanager")

    def say(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n  {text} [{time.monotonic() - began:.0f} s]", flush=True)

    return say
