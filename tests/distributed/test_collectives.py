"""Collectives on two real processes, and on none."""

import pytest
import torch

from hnet.distributed import collectives
from hnet.testing.ranks import run_distributed


def use_all(rank: int, base: int) -> dict[str, object]:
    collectives.barrier()
    return {
        "sum": collectives.sum_over_ranks(torch.tensor([base + rank, 1])).tolist(),
        "max": collectives.max_over_ranks(torch.tensor(float(rank))).item(),
        "all": collectives.gather_objects({"rank": rank}),
        "first": collectives.broadcast_object(f"from {rank}"),
    }


def fail_on_rank_one(rank: int) -> None:
    if rank == 1:
        raise ValueError("rank one is unhappy")
    collectives.barrier()


def wait_for_nobody(rank: int) -> None:
    if rank == 0:
        collectives.barrier()


def test_two_ranks_agree() -> None:
    results = run_distributed(use_all, 2, 10)
    expected = {"sum": [21, 2], "max": 1.0, "all": [{"rank": 0}, {"rank": 1}], "first": "from 0"}
    assert results == [expected, expected]


def test_alone_every_collective_is_the_identity() -> None:
    assert use_all(0, 10) == {"sum": [10, 1], "max": 0.0, "all": [{"rank": 0}], "first": "from 0"}


def test_a_failing_rank_ends_the_others_and_shows_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1 failed(.|\n)*rank one is unhappy"):
        run_distributed(fail_on_rank_one, 2)


def test_a_rank_that_waits_forever_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"rank 0 failed|did not finish"):
        run_distributed(wait_for_nobody, 2, timeout=5)
