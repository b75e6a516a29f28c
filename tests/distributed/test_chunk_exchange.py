"""The main stage on levelled ranks computes what it computes where the chunks were made."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnet.config import load_config
from hnet.distributed.chunk_exchange import ChunkExchange, level_runs
from hnet.distributed.collectives import sum_over_ranks
from hnet.distributed.sequence_parallel import open_sequence_group
from hnet.model.accounting import document_flops
from hnet.model.config import ModelConfig, StageConfig
from hnet.model.initialization import STD
from hnet.model.packed import Packed
from hnet.model.stack import Stack
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

STAGE = {
    "d_model": 16, "main": "t1M1", "attention": {"num_heads": 2, "rotary_dim": 4},
    "ssm": {"d_state": 4, "expand": 2, "head_dim": 8},
}  # fmt: skip
LENGTHS = [[3, 40, 1, 25], [1], [2, 1, 1], [30, 7]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 8))
def test_runs_hold_every_document_and_are_about_level(costs: list[int], num_runs: int) -> None:
    num_runs = min(num_runs, len(costs))
    borders = level_runs(np.array(costs, dtype=np.float64), num_runs)
    sums = [sum(costs[first:last]) for first, last in zip(borders, borders[1:], strict=False)]
    assert borders[0] == 0 and borders[-1] == len(costs) and len(borders) == num_runs + 1
    assert all(first < last for first, last in zip(borders, borders[1:], strict=False))
    # A border is off by half a document at most; one document per run is the other reason to be off.
    assert max(sums) <= sum(costs) / num_runs + max(costs) * (1 + num_runs)


def test_runs_of_like_documents_are_level() -> None:
    assert level_runs(np.ones(12), 4) == [0, 3, 6, 9, 12]
    assert level_runs(np.array([1.0, 1, 1, 1, 100, 1]), 2) == [0, 4, 6]


def run_stack(rank: int, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    stack = Stack(STAGE["main"], StageConfig(**STAGE), 1e-5).double()
    for parameter in stack.parameters():
        torch.nn.init.normal_(parameter, std=10 * STD)
    group = open_sequence_group(size, timeout_minutes=2)
    seen: list[int] = []
    if group is not None:
        ChunkExchange(group, partial(document_flops, StageConfig(**STAGE))).attach(stack)
    stack.layers[0].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].shape[0]))
    torch.manual_seed(rank)
    lengths = torch.tensor(LENGTHS[rank])
    values = torch.randn(int(lengths.sum()), 16, dtype=torch.float64, requires_grad=True)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    output = stack(Packed(values, cu_seqlens, 40), None)
    output.square().sum().backward()
    gradients = torch.cat([sum_over_ranks(p.grad).flatten() for p in stack.parameters() if p.grad is not None])
    return {"output": output.detach(), "input": values.grad, "gradients": gradients, "seen": seen[0]}


@pytest.mark.parametrize("size", [2, 4])
def test_outputs_and_gradients_are_those_without(size: int) -> None:
    alone, levelled = run_distributed(run_stack, 4, 1), run_distributed(run_stack, 4, size)
    for one, other in zip(alone, levelled, strict=True):
        for name in ("output", "input", "gradients"):
            torch.testing.assert_close(other[name], one[name], atol=1e-10, rtol=1e-10)
    assert sum(r["seen"] for r in levelled) == sum(r["seen"] for r in alone)
    assert max(r["seen"] for r in levelled) < max(r["seen"] for r in alone)


def train(rank: int, tree: dict[str, Any], num_steps: int) -> list[list[float]]:
    with open_run(load_config(RunConfig, tree)) as run:
        results = [run.next_step() for _ in range(num_steps)]
    return [[result.loss, result.grad_norm] for result in results]


def test_training_is_the_same_with_and_without(tmp_path: Path) -> None:
    model = load_config(ModelConfig, "hnet_tiny").model_dump(mode="json")
    tree = {
        "output_dir": str(tmp_path / "run"),
        "model": model,
        "data": {"train": "sample:train", "sequence_length": 64},
        "training": {"global_batch_bytes": 512, "ratio_loss_scope": "global_batch", "peak_flops": 1e9},
    }
    alone = train(0, tree, 3)
    ranks = run_distributed(train, 2, tree | {"engine": {"exchange_chunks": 2}}, 3)
    assert ranks[0] == ranks[1]
    assert np.array(ranks[0]) == pytest.approx(np.array(alone), rel=1e-4)
