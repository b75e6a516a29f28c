"""`hnet launch` does not start on hosts that are not fit: it names them, the cause and the remedy."""

import sys
from pathlib import Path

from tests.launch.hosts.bed import Hosts
from tests.launch.hosts.runs import PYTHONPATH, Make, Report, hnet_launch, start

_WITH_A_LOST_HOST = """
import os, sys
from pathlib import Path
from hnet.config import load_config
from hnet.training.config import RunConfig
from hnet_launch.backends.deepspeed import DeepSpeedBackend
from hnet_launch.environment import collect
from hnet_launch.hostfile import read_hostfile
from hnet_launch.job import Job
from hnet_launch.preflight.checks import table
from hnet_launch.preflight.run import check_nodes

job = Job("hnet.train", (), collect(os.environ), Path.cwd())
backend = DeepSpeedBackend(read_hostfile(sys.argv[1]).model_copy(update={"gpu": "cpu"}))
print(table(check_nodes(load_config(RunConfig, sys.argv[2]), job, backend, patience=15.0)))
"""


def test_a_host_with_other_data_and_another_disk_is_named(
    nodes: Hosts, make_run: Make, report: Report, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("one text\n" * 100)
    (tmp_path / "other").write_text("another text\n" * 100)
    (tmp_path / "run").mkdir()
    run_file = make_run(tmp_path, f"data.train={tmp_path / 'text'}")
    nodes[1].run(f"mount --bind {tmp_path}/other {tmp_path}/text; mount -t tmpfs -o size=1m own {tmp_path}/run")
    log = tmp_path / "log"
    command = hnet_launch(nodes.hostfile(tmp_path / "hostfile", 3), run_file, "--preflight-only")
    code = start(nodes, command, log).wait(timeout=120)
    nodes[1].run(f"umount {tmp_path}/text {tmp_path}/run")
    text = log.read_text()
    assert code == 2, text
    failed = [line.split(maxsplit=3)[1:] for line in text.splitlines() if line.startswith("FAILED")]
    report("; ".join(f"{check} {host} {cause}" for check, host, cause in failed))
    assert [(check, host) for check, host, _ in failed] == [("output_dir", "node2"), ("data", "node2")]
    assert "files that node1, node3 wrote: not one shared folder" in text
    assert "on node1: 1 documents, 900 bytes" in text
    assert "-> copy" in text and "nothing was started" in text


def test_a_host_that_cannot_be_reached_is_named(nodes: Hosts, make_run: Make, report: Report, tmp_path: Path) -> None:
    run_file, hostfile = make_run(tmp_path), nodes.hostfile(tmp_path / "hostfile", 3)
    nodes.cut(nodes[2])
    command = [sys.executable, "-c", _WITH_A_LOST_HOST, str(hostfile), str(run_file)]
    text = nodes[0].run(command, timeout=120, cwd=tmp_path, PYTHONPATH=PYTHONPATH)
    failed = [line for line in text.splitlines() if line.startswith("FAILED")]
    report(" ".join(" ".join(failed).split()))
    (lost,) = failed
    assert "reachable" in lost and "node3" in lost and "no report: ssh: connect to host node3 port 22" in lost
