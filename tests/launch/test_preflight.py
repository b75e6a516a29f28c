"""The preflight: verdicts on what nodes report, the meeting of nodes, and one real node."""

import dataclasses
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.config import load_config
from hnet.training.config import RunConfig
from hnet_launch.backends.torchrun import TorchrunBackend
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment
from hnet_launch.job import Job
from hnet_launch.preflight.checks import Finding, Needs, PreflightError, judge, judge_bandwidth, unreached
from hnet_launch.preflight.meeting import Client, serve
from hnet_launch.preflight.node import look_at_gpus
from hnet_launch.preflight.request import GpuReport, NodeReport, Request, find_report
from hnet_launch.preflight.run import check_nodes, conclude

ROOT = Path(__file__).parents[2]
HOSTS = ("node1", "node2", "node3")
NEEDS = Needs(port=29500, free_bytes=4_000_000_000, gpus_per_node=2, output_dir="/path/to/runs")
VERSIONS = {"python": "3.11.7", "hnet-lm": "0.1.0", "torch": "2.13.0", "deepspeed": "0.19.8", "code": "0123456789ab"}
GPU = GpuReport(name="H100", driver="570.1", uncorrected_errors="0", pending_repair="No", memory_used_mib="4")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def reports(**changes_of_node2: Any) -> dict[str, NodeReport]:
    """Three healthy nodes, the second one with changes."""
    made = {}
    for node, host in enumerate(HOSTS):
        healthy = {"node": node, "host_name": host, "versions": VERSIONS, "clock_seconds": 0.01, "gpus": (GPU, GPU)}
        healthy |= {"free_bytes": 10**12, "seen": (0, 1, 2), "sources": {"stores/text": "9 documents, 99 bytes"}}
        made[host] = NodeReport(**(healthy | (changes_of_node2 if host == "node2" else {})))
    return made


def test_healthy_nodes_pass_every_check() -> None:
    findings = judge(reports(), NEEDS)
    assert all(finding.passed for finding in findings)
    text = conclude(findings)
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == ["versions", "port", "clock", "output_dir", "data", "gpus"]
    assert all("node1, node2, node3" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "check", "cause", "remedy"),
    [
        ({"versions": {**VERSIONS, "torch": "2.9.0"}}, "versions", "torch 2.9.0, on node1 2.13.0", "torch==2.13.0"),
        ({"versions": {**VERSIONS, "code": "bad"}}, "versions", "code bad, on node1", "code on node2 to that of node1"),
        ({"connection_error": "No route to host"}, "port", "node1:29500: No route to host", "firewall"),
        ({"clock_seconds": -9.3}, "clock", "9.3 s behind node1", "chronyc"),
        ({"clock_seconds": 2.5}, "clock", "2.5 s ahead of node1", "clock of node2"),
        ({"folder_error": "Permission denied"}, "output_dir", "Permission denied", "writable on node2"),
        ({"free_bytes": 3_000_000_000}, "output_dir", "3 GB free, checkpoints take 4 GB", "keep_checkpoints"),
        ({"seen": (1,)}, "output_dir", "files that node1, node3 wrote", "file system that all nodes mount"),
        ({"sources": {}, "source_errors": {"stores/text": "gone"}}, "data", "gone", "mount stores/text on node2"),
        ({"sources": {"stores/text": "8 documents"}}, "data", "on node1: 9 documents", "copy stores/text from node1"),
        ({"gpus": (GPU,)}, "gpus", "1 GPUs, the job starts 2 ranks", "slots"),
        ({"xids": ("NVRM: Xid (PCI:1): 79, off the bus",)}, "gpus", "Xid (PCI:1): 79", "restart node2"),
        ({"gpu_error": "driver hangs", "gpus": ()}, "gpus", "driver hangs", "driver of node2"),
        ({"gpus": ()}, "gpus", "0 GPUs", "slots"),
        ({"gpus": (GPU, GPU.model_copy(update={"uncorrected_errors": "3"}))}, "gpus", "GPU 1: 3 uncorrected", "reset"),
        ({"gpus": (GPU, GPU.model_copy(update={"pending_repair": "Yes"}))}, "gpus", "GPU 1: memory rows", "reset"),
        ({"gpus": (GPU, GPU.model_copy(update={"memory_used_mib": "70000"}))}, "gpus", "70000 MiB", "end the process"),
        ({"gpus": (GPU.model_copy(update={"driver": "1.0"}),) * 2}, "gpus", "driver 1.0, on node1 570.1", "equal"),
    ],
)
def test_an_unfit_node_is_named_with_cause_and_remedy(
    changes: dict[str, Any], check: str, cause: str, remedy: str
) -> None:
    findings = judge(reports(**changes), NEEDS)
    failed = [finding for finding in findings if not finding.passed]
    assert [(finding.check, finding.host) for finding in failed] == [(check, "node2")]
    assert cause in failed[0].detail and remedy in failed[0].remedy
    with pytest.raises(PreflightError, match=r"1 problem, nothing was started(.|\n)*FAILED +\w+ +node2"):
        conclude(findings)


def test_a_taken_port_is_told_apart_from_an_unreachable_one() -> None:
    nodes = reports()
    taken = nodes["node1"].model_copy(update={"connection_error": "Address already in use"})
    failed = [finding for finding in judge({**nodes, "node1": taken}, NEEDS) if not finding.passed]
    assert [finding.host for finding in failed] == ["node1"]
    assert "choose another port" in failed[0].remedy


def test_a_clock_is_judged_by_what_is_certain() -> None:
    assert all(finding.passed for finding in judge(reports(clock_seconds=2.5, clock_uncertainty=1.0), NEEDS))


def test_a_slow_link_is_found_among_its_equals_only() -> None:
    speeds = {"node1 - node2": 40.0, "node2 - node3": 1.0, "node3 - node1": 41.0}
    failed = [finding for finding in judge_bandwidth(speeds, 80.0, 24) if not finding.passed]
    assert [finding.host for finding in failed] == ["node2 - node3"]
    assert "1 GB/s, the median of all pairs is 40" in failed[0].detail
    assert all(finding.passed for finding in judge_bandwidth({"node1 - node2": 0.001}, 80.0, 16))


def test_many_hosts_with_one_outcome_share_a_line() -> None:
    findings = [Finding("clock", f"node{i}", "fine") for i in range(64)] + [unreached("node64", "Connection refused")]
    with pytest.raises(PreflightError) as error:
        conclude(findings)
    assert "node0 ... node63 (64)" in str(error.value)
    assert "ssh node64 true" in str(error.value)


def test_a_report_is_found_among_other_output() -> None:
    report = reports()["node1"]
    lines = report.lines()
    assert find_report("\nmotd\n".join(f"noise {line}" for line in lines)) == report
    assert find_report("\n".join(lines[:-1])) is None
    assert find_report("bash: python: command not found") is None


def test_nodes_meet_and_compare_clocks() -> None:
    server, met, offsets = serve(port := free_port(), 3, 20.0), [], []

    def node(number: int) -> None:
        with Client("127.0.0.1", port, 20.0) as client:
            offsets.append(client.clock())
            met.append(number)
            client.wait("written")
            assert len(met) == 3
            client.wait("seen")

    threads = [threading.Thread(target=node, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.join(20.0)
    assert sorted(met) == [0, 1, 2] and not server.is_alive()
    assert all(abs(ahead) <= uncertainty for ahead, uncertainty in offsets)


def test_a_node_that_stays_away_holds_nobody_for_ever() -> None:
    serve(port := free_port(), 2, 1.0)
    with Client("127.0.0.1", port, 1.0) as client:
        client.wait("written")
        assert abs(client.clock()[0]) < 1.0


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    tree = {"output_dir": str(tmp_path / "run"), "model": "hnet_tiny", "data": {"train": "sample:train"}}
    return lambda *overrides: load_config(RunConfig, tree, overrides)


def test_this_machine_passes_and_keeps_no_trace(make_config: Callable[..., RunConfig], tmp_path: Path) -> None:
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "launch"))
    job = Job("hnet.train", (), Environment({"PYTHONPATH": paths}), tmp_path, port=free_port())
    findings = check_nodes(make_config(), job, TorchrunBackend(ClusterConfig()), patience=20.0)
    checks = {finding.check: finding for finding in findings if finding.check != "gpus"}
    assert list(checks) == ["versions", "output_dir", "data"]
    assert all(finding.passed for finding in checks.values())
    assert "sample:train: 376 documents" in checks["data"].detail
    assert not list((tmp_path / "run").iterdir())


def test_a_request_survives_the_command_line(make_config: Callable[..., RunConfig]) -> None:
    config = make_config("data.train=100% 'quoted' $HOME *.jsonl")
    request = Request(
        token="t", num_nodes=2, host="node1", port=1, output_dir="/path/to/a run", sources=config.data.train
    )
    word = request.encode()
    assert Request.decode(word) == request
    assert not set(word) & set("%$'\" *")


XIDS = (
    "[ 9.1] NVRM: Xid (PCI:0000:3b:00): 31, pid=7, a program's own fault\n"
    "[ 9.2] NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.\n"
)


@pytest.mark.parametrize(
    ("script", "log", "found"),
    [
        ("echo 'H100, 570.1, 0, No, 4'", "all is well", {"gpus": [GPU], "xids": ()}),
        (
            "echo 'H100, 570.1, 0, No, 4'",
            XIDS,
            {"gpus": [GPU], "xids": ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus.",)},
        ),
        ("echo 'No devices were found'; exit 6", "", {"gpu_error": "No devices were found"}),
    ],
)
def test_gpus_are_read_from_nvidia_smi_and_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, log: str, found: dict[str, Any]
) -> None:
    (tmp_path / "log").write_text(log)
    for name, text in (("nvidia-smi", script), ("dmesg", f"cat {tmp_path}/log")):
        (tmp_path / name).write_text(f"#!/usr/bin/env sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert look_at_gpus() == found


@pytest.mark.parametrize(("gpus_per_node", "passes"), [(2, False), (0, True)])
def test_gpus_that_are_nowhere_are_missed_only_by_who_asked_for_some(gpus_per_node: int, passes: bool) -> None:
    without = {host: report.model_copy(update={"gpus": ()}) for host, report in reports().items()}
    found = judge(without, dataclasses.replace(NEEDS, gpus_per_node=gpus_per_node))
    gpus = [finding for finding in found if finding.check == "gpus"]
    assert [finding.passed for finding in gpus] == [passes] * 3
    assert passes or "--cpu" in gpus[0].remedy
