"""Two and four hosts train to the losses of one, through plain `deepspeed` and through `hnet launch`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.launch.hosts.bed import Hosts
from tests.launch.hosts.runs import STEPS, Make, Report, deepspeed, difference, hnet_launch, losses, start


@pytest.mark.parametrize(
    ("launcher", "num_hosts", "options"),
    [(deepspeed, 2, ()), (deepspeed, 4, ()), (hnet_launch, 2, ("--no-preflight",)), (hnet_launch, 4, ())],
)
def test_hosts_train_to_the_losses_of_one_process(
    nodes: Hosts,
    make_run: Make,
    undisturbed: list[float],
    report: Report,
    tmp_path: Path,
    launcher: Callable[..., list[str]],
    num_hosts: int,
    options: tuple[str, ...],
) -> None:
    run_file, log = make_run(tmp_path), tmp_path / "log"
    command = launcher(nodes.hostfile(tmp_path / "hostfile", num_hosts), run_file, *options)
    code = start(nodes, command, log).wait(timeout=300)
    assert code == 0, log.read_text()
    found = losses(tmp_path / "run")
    report(f"{launcher.__name__} --hostfile, {num_hosts} hosts: {difference(found, undisturbed)}")
    assert len(found) == STEPS
    assert found == pytest.approx(undisturbed, rel=1e-5)
