"""A job that Slurm takes its nodes from in the middle goes on when it gets them back, and loses nothing."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.hosts.bed import Hosts, wait_until
from tests.launch.hosts.runs import PYTHONPATH, Make, Report, difference, last_step, losses

SECONDS = 240.0


@pytest.fixture
def slurm_command(nodes: Hosts, slurm_variables: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Run a command of Slurm, or `hnet`, on the first host; returns what it prints."""
    variables = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", **slurm_variables}
    return lambda *words: nodes[0].run(list(words), cwd=tmp_path, **variables)


@pytest.mark.parametrize(
    ("preempt", "options"),
    [
        # What `--signal` sends before the time is over or a more important job takes the nodes.
        (("scancel", "--batch", "--signal=USR1"), ()),
        # What an administrator or a preemption without notice does.
        (("scontrol", "requeue"), ("--no-preflight",)),
    ],
    ids=["signal", "requeue"],
)
def test_a_preempted_job_ends_with_the_losses_of_an_undisturbed_one(
    slurm_command: Callable[..., str],
    make_run: Make,
    undisturbed: list[float],
    report: Report,
    tmp_path: Path,
    preempt: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    run_file, output_dir = make_run(tmp_path), tmp_path / "run"
    hnet = [sys.executable, "-m", "hnet", "launch", str(run_file), "--slurm", "--cpu", "--nodes=2", "--gpus-per-node=1"]
    submitted = slurm_command(*hnet, *options)
    match = re.search(r"submitted job (\d+); its log: (\S+)", submitted)
    assert match is not None, submitted
    job, log = match[1], Path(match[2])

    def field(name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", slurm_command("scontrol", "show", "job", job, "--oneliner"))
        assert found is not None
        return found[1]

    def is_over() -> bool:
        return field("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT")

    wait_until(lambda: last_step(output_dir) >= 12 or is_over(), SECONDS, "the twelfth step")
    at = last_step(output_dir)
    slurm_command(*preempt, job)
    wait_until(is_over, SECONDS, "the requeued job")
    text = log.read_text(errors="replace")
    assert (field("JobState"), field("Restarts")) == ("COMPLETED", "1"), text
    found = losses(output_dir)
    report(f"Slurm job, {' '.join(preempt)} after step {at}, run again: {difference(found, undisturbed)}")
    assert found == pytest.approx(undisturbed, rel=1e-5)
