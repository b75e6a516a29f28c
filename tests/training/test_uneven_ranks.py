"""Ranks whose shares differ, or that have none, give the losses of one process on the same global batch."""

from collections.abc import Callable
from typing import Any

import pytest

from hnet.config import load_config
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

Make = Callable[..., RunConfig]


def steps(rank: int, tree: dict[str, Any], num_steps: int) -> list[dict[str, Any]]:
    with open_run(load_config(RunConfig, tree)) as run:
        results = [run.next_step() for _ in range(num_steps)]
    return [
        {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "counts": list(result.stage_units),
            "target_bytes": result.target_bytes,
            "context": result.context,
            "imbalance": list(result.imbalance),
        }
        for result in results
    ]


@pytest.mark.parametrize(
    "settings",
    [
        ["model.stages=[{d_model: 32, main: t1, attention: {num_heads: 2}}]", "optimizer.lr_multipliers=[1.0]"],
        ["engine.zero_stage=3", "engine.shard_group=2"],
    ],
)
def test_a_new_run_agrees_from_the_first_step(make_config: Make, settings: list[str]) -> None:
    scope = "training.ratio_loss_scope=global_batch"
    alone = [setting for setting in settings if not setting.startswith("engine")]
    expected = steps(0, make_config(*alone, scope).model_dump(mode="json"), 2)
    shared = run_distributed(steps, 2, make_config(*settings, scope).model_dump(mode="json"), 2)
    for one, other in zip(expected, shared[0], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("scope", ["global_batch", "micro_batch"])
@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "imbalance"), [(512, None, 2 / (4 / 3)), (512, 128, 2 / (4 / 3)), (256, None, 1.5)]
)
def test_three_ranks_share_what_three_does_not_divide(
    make_config: Make, scope: str, global_batch: int, micro_batch: int | None, imbalance: float
) -> None:
    batches = [f"training.global_batch_bytes={global_batch}", f"training.ratio_loss_scope={scope}"]
    alone = make_config(*batches, "training.micro_batch_bytes=128").model_dump(mode="json")
    shared = make_config(*batches, *([f"training.micro_batch_bytes={micro_batch}"] if micro_batch else []))
    expected = steps(0, alone, 3)
    ranks = run_distributed(steps, 3, shared.model_dump(mode="json"), 3)
    assert ranks[1] == ranks[0] and ranks[2] == ranks[0]
    # The paper's scope averages over micro-batches, which are the same ones where each has one window.
    exact = scope == "global_batch" or micro_batch == 128 or global_batch == 256
    for one, other in zip(expected, ranks[0], strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5 if exact else 1e-2)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4 if exact else 0.1)
        assert other["target_bytes"] == one["target_bytes"]
        assert other["context"] == one["context"]
    assert ranks[0][0]["counts"] == expected[0]["counts"]
    # A rank without data counts the one unit that lets it take part.
    assert ranks[0][0]["imbalance"][0] == pytest.approx(imbalance)
    assert expected[0]["imbalance"] == [1.0, 1.0]
