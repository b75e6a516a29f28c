"""Bytes of state that real ranks hold, beside what the planner says."""

from typing import Any

import pytest
from unequal import batch, start

from hnet.config import load_config
from hnet.testing.ranks import run_distributed
from hnet.testing.state_bytes import measured
from hnet.training.config import RunConfig
from hnet.training.step import TrainStep
from hnet_launch.cluster import ClusterConfig
from hnet_launch.plan.layout import layout_of
from hnet_launch.plan.memory import state_of

WINDOW = 32
ENGINES: dict[str, dict[str, Any]] = {
    "DDP": {},
    "ZeRO-0": {"zero_stage": 0},
    "ZeRO-1": {"zero_stage": 1},
    "ZeRO-2": {"zero_stage": 2},
    "ZeRO-3": {"zero_stage": 3},
    "ZeRO-2, optimizer on the host": {"zero_stage": 2, "offload": "optimizer"},
    "ZeRO-3, all on the host": {"zero_stage": 3, "offload": "all"},
    "ZeRO-3 in groups": {"zero_stage": 3, "shard_group": 2},
    "FSDP2 in groups": {"fsdp": True, "shard_group": 2},
}
SHARDED = ["ZeRO-1", "ZeRO-2", "ZeRO-3", "ZeRO-3, all on the host"]


def make_config(engine: dict[str, Any], num_ranks: int, micro_batches: int) -> RunConfig:
    """Three stages with 0.9 million parameters, most of them in the innermost, as in the released models."""
    outer = {"d_model": 48, "encoder": "m1", "decoder": "m1", "ssm": {"d_state": 16, "head_dim": 16}}
    attention = {"num_heads": 4, "rotary_dim": 4}
    tree = {
        "output_dir": "unused",
        "model": {
            "stages": [
                outer,
                outer | {"d_model": 64, "encoder": "T1m1", "attention": attention},
                {"d_model": 96, "main": "T6", "attention": attention},
            ]
        },
        "data": {"train": "unused", "sequence_length": WINDOW},
        "training": {"global_batch_bytes": WINDOW * num_ranks * micro_batches, "micro_batch_bytes": WINDOW},
        "engine": engine,
    }
    return load_config(RunConfig, tree)


def state_bytes(rank: int, num_ranks: int, micro_batches: int, names: list[str]) -> dict[str, dict[str, int]]:
    """Most bytes of each engine over two steps on one byte after the other."""
    batches = [batch([list(range(65, 65 + WINDOW))])] * micro_batches
    result = {}
    for name in names:
        config = make_config(ENGINES[name], num_ranks, micro_batches)
        engine = start(config)
        step = TrainStep(config, engine)
        with measured(engine) as figures:
            for number in (1, 2):
                assert not step(batches, number).skipped, name
        result[name] = dict(figures)
    return result


@pytest.mark.parametrize(
    ("num_ranks", "micro_batches", "names"),
    [
        (1, 2, ["DDP", "ZeRO-0", *SHARDED]),
        (2, 2, ["ZeRO-0", *SHARDED, "ZeRO-2, optimizer on the host"]),
        (4, 1, [*SHARDED, "ZeRO-3 in groups", "FSDP2 in groups"]),
    ],
)
def test_planner_says_what_ranks_hold(num_ranks: int, micro_batches: int, names: list[str]) -> None:
    results = run_distributed(state_bytes, num_ranks, num_ranks, micro_batches, names, timeout=600)
    for name in names:
        config = make_config(ENGINES[name], num_ranks, micro_batches)
        layout = layout_of(config, ClusterConfig(gpus_per_node=num_ranks, gpu="cpu"))
        planned = state_of(config.model, layout, micro_batches)
        for part in ("parameters", "gradients", "optimizer"):
            most = max(result[name][part] for result in results)
            assert getattr(planned, part) == pytest.approx(most, rel=0.05), f"{name}, {num_ranks} ranks: {part}"
