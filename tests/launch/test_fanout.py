"""One command on every node: what the tools print is sorted by host, whatever else they say."""

from pathlib import Path

import pytest

from hnet_launch.backends.deepspeed import DeepSpeedBackend
from hnet_launch.backends.srun import SrunBackend
from hnet_launch.backends.torchrun import TorchrunBackend
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment
from hnet_launch.job import Backend, Job
from hnet_launch.preflight.fanout import hosts_of, on_every_node, starts_all_nodes

TWO = ClusterConfig(nodes=2, hosts=("node1", "node2"))
TOOLS = {
    "pdsh": 'printf "node2: two: b\\nnode1: one\\npdsh@$(uname -n): node2: exited\\n"; echo "$@" >&2',
    "mpirun": r'printf "[1,1]<stdout>:two: b\n[1,0]<stdout>:one\n[1,1]<stderr>:exited\n"',
    "srun": r'printf "1: two: b\n0: one\n1: exited\n"',
    "scontrol": r'printf "node1\nnode2\n"',
}


@pytest.fixture(autouse=True)
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-2]")


@pytest.mark.parametrize(
    "backend",
    [DeepSpeedBackend(TWO), DeepSpeedBackend(TWO, launcher="openmpi"), SrunBackend(ClusterConfig(nodes=2))],
    ids=["pdsh", "mpirun", "srun"],
)
def test_output_is_sorted_by_host(backend: Backend, tmp_path: Path) -> None:
    job = Job("hnet.train", (), Environment({"NAME": "100% of it"}), tmp_path)
    outputs = on_every_node(["true"], job, backend, 30.0)
    first, second = (outputs[host].splitlines() for host in ("node1", "node2"))
    assert first[0] == "one" and second[:2] == ["two: b", "exited"]
    assert hosts_of(backend) == ("node1", "node2") and starts_all_nodes(backend)
    if first[1:]:
        # What pdsh was given: no % but its own may be left, and the number of the node comes last.
        assert "export NAME='100%% of it';" in first[-1] and first[-1].endswith("true %n")


@pytest.mark.parametrize(
    ("hosts", "labels"),
    [
        (("node1.lab.org", "node2.lab.org"), ("node1", "node2")),
        (("node1.lab.org", "node2.lab.org"), ("node1.lab.org", "node2.lab.org")),
        (("node1.lab.org", "node1.hall.org"), ("node1.lab.org", "node1.hall.org")),
        (("10.0.0.1", "10.0.0.2"), ("10.0.0.1", "10.0.0.2")),
        (("10.0.0.1", "11.0.0.1"), ("10.0.0.1", "11.0.0.1")),
    ],
)
def test_a_domain_that_pdsh_leaves_out_is_found_again(
    hosts: tuple[str, str], labels: tuple[str, str], tmp_path: Path
) -> None:
    lines = f"{labels[1]}: two\\n{labels[0]}: one\\npdsh@here: {labels[1]}: exited\\n10: of the tool\\n"
    (tmp_path / "pdsh").write_text(f'#!/usr/bin/env bash\nprintf "{lines}"\n')
    backend = DeepSpeedBackend(ClusterConfig(nodes=2, hosts=hosts))
    outputs = on_every_node(["true"], Job("hnet.train", (), Environment(), tmp_path), backend, 30.0)
    assert outputs == {hosts[0]: "one\n10: of the tool", hosts[1]: "two\nexited\n10: of the tool"}


def test_a_node_that_starts_its_own_share_checks_only_itself(tmp_path: Path) -> None:
    job = Job("hnet.train", (), Environment({"GREETING": "hello"}), tmp_path)
    for backend in (DeepSpeedBackend(TWO, node_rank=1), TorchrunBackend(TWO, "2", "node1:29400")):
        assert not hosts_of(backend) and not starts_all_nodes(backend)
        outputs = on_every_node(["bash", "-c", 'echo "$GREETING from node $0"'], job, backend, 30.0)
        assert outputs == {"localhost": "hello from node 0\n"}


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    job = Job("hnet.train", (), Environment(), tmp_path)
    outputs = on_every_node(["bash", "-c", "echo begun; exec sleep 60"], job, TorchrunBackend(ClusterConfig()), 1.0)
    assert outputs["localhost"].splitlines() == ["begun", "", "not done after 1 s"]
