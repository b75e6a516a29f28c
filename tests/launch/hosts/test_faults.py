"""What happens to hosts in the middle of a run: a worker is killed, a cable is cut, a disk fills up. Each time the
launcher names the cause, and the run ends with the losses of an undisturbed one."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.launch.hosts.bed import Hosts, wait_until
from tests.launch.hosts.runs import Make, Report, difference, hnet_launch, last_step, last_words, losses, start

OPTIONS = ("--no-preflight", "--restart-wait", "1")
SECONDS = 240.0


def started(
    nodes: Hosts, run_file: Path, log: Path, *, output_dir: Path, **variables: str
) -> "subprocess.Popen[bytes]":
    """A run on two hosts that has a checkpoint and is in the middle."""
    hostfile = nodes.hostfile(log.with_name("hostfile"), 2)
    process = start(nodes, hnet_launch(hostfile, run_file, *OPTIONS), log, **variables)
    wait_until(lambda: last_step(output_dir) >= 12 or process.poll() is not None, SECONDS, "the twelfth step")
    assert process.poll() is None, log.read_text()
    return process


def test_a_killed_worker_is_named_and_the_run_continues(
    nodes: Hosts, make_run: Make, undisturbed: list[float], report: Report, tmp_path: Path
) -> None:
    run_file, log = make_run(tmp_path), tmp_path / "log"
    process = started(nodes, run_file, log, output_dir=tmp_path / "run")
    (worker,) = nodes[1].processes("-m hnet.train")
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=SECONDS) == 0, log.read_text()
    found = losses(tmp_path / "run")
    report(f"SIGKILL on node2: '{last_words(log, 'SIGKILL')}'; {difference(found, undisturbed)}")
    assert "rank 1 on node2 was killed by SIGKILL" in log.read_text()
    assert found == pytest.approx(undisturbed, rel=1e-5)


def test_a_cut_cable_is_named_and_the_run_continues_when_it_is_back(
    nodes: Hosts, make_run: Make, undisturbed: list[float], report: Report, tmp_path: Path
) -> None:
    run_file, log = make_run(tmp_path, "engine.watchdog_minutes=0.4"), tmp_path / "log"
    # The keep-alive of the launcher's ssh says that a host is gone after a minute; here after some seconds.
    impatient = "-o ServerAliveInterval=3 -o ServerAliveCountMax=3 -o ConnectTimeout=5"
    process = started(nodes, run_file, log, output_dir=tmp_path / "run", PDSH_SSH_ARGS_APPEND=impatient)
    nodes.cut(nodes[1])
    wait_until(lambda: "failed after" in log.read_text(), SECONDS, "the launcher to notice")
    nodes.mend(nodes[1])
    assert process.wait(timeout=SECONDS) == 0, log.read_text()
    found = losses(tmp_path / "run")
    said = last_words(log, "no sign of life")
    report(f"cable of node2 cut: '{said}'; {difference(found, undisturbed)}")
    assert "rank 0 on node1 (step " in said and "no sign of life of rank 1 on node2" in said
    assert "no word from rank 1 on node2" in log.read_text()
    assert found == pytest.approx(undisturbed, rel=1e-5)


def test_a_full_disk_is_named_and_the_run_continues_when_there_is_room(
    nodes: Hosts, make_run: Make, undisturbed: list[float], report: Report, tmp_path: Path
) -> None:
    disk, log = nodes.folder / "small", tmp_path / "log"
    run_file, output_dir = make_run(tmp_path, f"output_dir={disk / 'run'}"), nodes[0].path(disk / "run")
    process = started(nodes, run_file, log, output_dir=output_dir)
    nodes[0].run(f"dd if=/dev/zero of={disk}/filler bs=64k || true")
    assert process.wait(timeout=SECONDS) != 0
    said = last_words(log, "could not be saved")
    report(f"disk full: '{said}'")
    assert "No space left on device" in said and "free disk space" in said
    nodes[0].run(f"rm {disk}/filler")
    hostfile = tmp_path / "hostfile"
    again = start(nodes, hnet_launch(hostfile, run_file, *OPTIONS), tmp_path / "again")
    assert again.wait(timeout=SECONDS) == 0, (tmp_path / "again").read_text()
    found = losses(output_dir)
    report(f"after there was room again: {difference(found, undisturbed)}")
    assert found == pytest.approx(undisturbed, rel=1e-5)
