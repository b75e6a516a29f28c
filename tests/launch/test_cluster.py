"""Clusters and hostfiles: what they say, and what is wrong with bad ones, by file and line."""

from pathlib import Path

import pytest

from hnet.config import config_names, load_config
from hnet.errors import ConfigError
from hnet_launch.cluster import ClusterConfig
from hnet_launch.hostfile import read_hostfile, write_hostfile


def test_a_hostfile_is_a_cluster(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("# rack 1\nnode1 slots=4\n\n  10.0.0.2   slots=4 # the spare one\nnode-3.cluster slots=4")
    cluster = read_hostfile(path)
    assert cluster.hosts == ("node1", "10.0.0.2", "node-3.cluster")
    assert (cluster.nodes, cluster.gpus_per_node, cluster.world_size) == (3, 4, 12)
    path.write_text(write_hostfile(cluster))
    assert read_hostfile(path) == cluster


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node1 slots=2\nnode2\n", ["hosts:2: got 'node2'", "`HOST slots=N`"]),
        ("node1 slot=2\n", ["hosts:1: got 'node1 slot=2'"]),
        ("node1 slots=two\n", ["hosts:1: got 'node1 slots=two'"]),
        ("node1 slots=2 max-slots=4\n", ["hosts:1: got"]),
        ("node1 slots=0\n", ["hosts:1: slots=0", "leave the host out"]),
        ("a slots=2\n\nb slots=2\na slots=2\n", ["hosts:4: host 'a' is already on line 1"]),
        ("a slots=2\nb slots=4\n", ["hosts:2: 'b' has slots=4 and 'a' slots=2", "for example 2"]),
        ("root@a slots=2\n", ["hosts:1: 'root@a' is not the name", "ssh configuration"]),
        ("-oProxyCommand=x slots=2\n", ["hosts:1: '-oProxyCommand=x' is not the name"]),
        ("node[1-4] slots=2\n", ["hosts:1: 'node[1-4]' is not the name"]),
        ("# nobody\n", ["names no host"]),
        (b"\xff\xfe", ["is not text (byte 0)"]),
    ],
)
def test_a_wrong_hostfile_is_told_by_its_line(tmp_path: Path, text: str | bytes, expected: list[str]) -> None:
    path = tmp_path / "hosts"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        read_hostfile(path)
    assert all(part in str(caught.value) for part in expected), caught.value


def test_a_missing_hostfile_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "hosts.txt").write_text("a slots=1")
    with pytest.raises(ConfigError, match=r"no such hostfile: .*host\.txt; did you mean .*hosts\.txt\?"):
        read_hostfile(tmp_path / "host.txt")


def test_shipped_clusters_load_by_name() -> None:
    sizes = {name: load_config(ClusterConfig, name).world_size for name in config_names("clusters")}
    assert sizes.items() >= {"h100_1": 1, "h100_8": 8, "h100_8x8": 64}.items()


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"nodes": 2, "hosts": ["a"]}, "hosts names 1 machines, but nodes is 2"),
        ({"nodes": 2, "hosts": ["a", "a"]}, "'a' is named twice"),
        ({"nodes": 1, "hosts": ["a b"]}, "'a b' is not the name"),
        ({"gpus_per_node": 0}, "gpus_per_node: got 0"),
        ({"gpu_per_node": 8}, "did you mean 'gpus_per_node'?"),
        ({"inter_node_gb_per_s": 0.0}, "inter_node_gb_per_s: got 0.0"),
    ],
)
def test_a_wrong_cluster_is_told_by_its_key(tree: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(ClusterConfig, tree)
    assert expected in str(caught.value)
