"""The bandwidth probe: every pair of neighbouring hosts is measured once, by any number of hosts."""

import json
from unittest import mock

import pytest
import torch

from hnet.distributed.bandwidth import measure
from hnet.testing.ranks import run_distributed


def as_hosts(rank: int, ranks_per_host: int) -> str:
    """The measurement as JSON, with ranks that take themselves for those of several hosts."""
    host, local_rank = divmod(rank, ranks_per_host)
    with (
        mock.patch("hnet.distributed.bandwidth.socket.gethostname", return_value=f"node{host + 1}"),
        mock.patch("hnet.distributed.bandwidth.environment.local_rank", return_value=local_rank),
    ):
        return json.dumps(measure(torch.device("cpu")))


@pytest.mark.parametrize(
    ("num_ranks", "ranks_per_host", "pairs"),
    [
        (1, 1, set()),
        (2, 2, set()),
        (2, 1, {"node1 - node2"}),
        (3, 1, {"node1 - node2", "node2 - node3", "node3 - node1"}),
        (4, 2, {"node1 - node2"}),
        (4, 1, {"node1 - node2", "node2 - node3", "node3 - node4", "node4 - node1"}),
    ],
)
def test_every_pair_of_neighbours_is_measured(num_ranks: int, ranks_per_host: int, pairs: set[str]) -> None:
    results = [json.loads(result) for result in run_distributed(as_hosts, num_ranks, ranks_per_host)]
    for result in results:
        assert result["ranks"] == num_ranks
        assert set(result["pairs"]) == pairs
        assert all(speed > 0 for speed in result["pairs"].values())
        assert (result["all_reduce"] > 0) == (num_ranks > 1)
