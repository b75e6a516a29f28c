"""Every engine and number of ranks trains like one process, on ranks whose numbers of chunks are far apart."""

from pathlib import Path
from typing import Any

import pytest
import torch
from unequal import deepspeed_file, make_config, start, train, whole_state

from hnet.testing.ranks import run_distributed

NUM_STEPS = 50
Curves = dict[str, list[Any]]
Engines = dict[str, dict[str, Any]]


def curves(rank: int, engines: Engines, num_steps: int, *overrides: str) -> dict[str, Curves]:
    """On each engine: losses, gradient norms and chunks of every step, and the first gradient of every parameter."""
    result = {}
    for name, settings in engines.items():
        config = make_config(settings, *overrides)
        engine = start(config)
        first, _ = train(config, engine, [1])
        state = whole_state(engine)
        results, _ = train(config, engine, range(2, num_steps + 1))
        results = first + results
        result[name] = {
            # After one update AdamW's first moment is a tenth of the clipped gradient.
            "gradients": [values for tensor, values in sorted(state.items()) if tensor.startswith("exp_avg/")],
            "loss": [step.loss for step in results],
            "grad_norm": [step.grad_norm for step in results],
            "chunks": [[stage.chunks for stage in step.stages] for step in results],
            "imbalance": [list(step.imbalance) for step in results],
        }
    return result


@pytest.fixture(scope="module")
def alone() -> Curves:
    torch.set_num_threads(1)
    return curves(0, {"alone": {}}, NUM_STEPS)["alone"]


@pytest.fixture
def engines(tmp_path: Path) -> Engines:
    offload = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
    return {
        "data parallel": {},
        "ZeRO 0": {"zero_stage": 0},
        "ZeRO 1": {"zero_stage": 1},
        "ZeRO 2": {"zero_stage": 2},
        "ZeRO 3": deepspeed_file(tmp_path),
        "ZeRO 3, all on the host": deepspeed_file(tmp_path, **offload),
        "FSDP2": {"fsdp": True},
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_curves_are_those_of_one_process(engines: Engines, alone: Curves, world_size: int) -> None:
    several = run_distributed(curves, world_size, engines, NUM_STEPS, timeout=900)
    assert sum(norm > 0.5 for norm in alone["grad_norm"]) > NUM_STEPS // 2, "clipping was to be active"
    for rank, results in enumerate(several):
        for name, result in results.items():
            case = f"rank {rank} of {world_size}, {name}"
            assert result["chunks"] == alone["chunks"], case
            assert world_size == 1 or min(map(max, result["imbalance"])) > 1.25, "ranks were to be unequal"
            torch.testing.assert_close(
                result["loss"], alone["loss"], atol=1e-4, rtol=0, msg=lambda m, c=case: f"{c}: {m}"
            )
            torch.testing.assert_close(result["grad_norm"], alone["grad_norm"], atol=0, rtol=1e-3)
            torch.testing.assert_close(result["gradients"], alone["gradients"], atol=1e-7, rtol=1e-4)
