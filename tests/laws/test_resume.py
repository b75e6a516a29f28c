"""Save + resume = never stopped, bit for bit, for random models, batches and packs."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnet.config import load_config
from hnet.model.config import ModelConfig
from hnet.testing.strategies import model_configs
from hnet.training.config import RunConfig
from hnet.training.run import open_run

STEPS = 4
WINDOW = 32


def train(config: RunConfig, steps: int) -> tuple[list[tuple[float, float, Any]], dict[str, torch.Tensor]]:
    """Losses, gradient norms and boundary statistics of the next `steps` steps, then a checkpoint and the weights."""
    with open_run(config) as run:
        results = [run.next_step() for _ in range(steps)]
        run.save()
        weights = {name: parameter.detach().clone() for name, parameter in run.engine.model.named_parameters()}
    return [(result.loss, result.grad_norm, result.stages) for result in results], weights


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(
    model=model_configs(),
    lengths=st.lists(st.integers(0, 90), min_size=2, max_size=6).filter(any),
    stop_after=st.integers(1, STEPS - 1),
    micro_batches=st.sampled_from([1, 2]),
    packing=st.sampled_from(["split", "whole"]),
    scope=st.sampled_from(["micro_batch", "global_batch"]),
    seed=st.integers(0, 100),
)
def test_resumed_run_equals_undisturbed_run(
    model: ModelConfig,
    lengths: list[int],
    stop_after: int,
    micro_batches: int,
    packing: str,
    scope: str,
    seed: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for index, length in enumerate(lengths):
            text = bytes((index * 31 + 7 * position) % 253 for position in range(length))
            (Path(folder) / f"{index}.txt").write_bytes(text)

        def run_config(name: str) -> RunConfig:
            tree = {
                "output_dir": f"{folder}/{name}",
                "model": model.model_dump(mode="json"),
                "data": {"train": f"{folder}/*.txt", "sequence_length": WINDOW, "packing": packing},
                "training": {
                    "steps": STEPS,
                    "seed": seed,
                    "global_batch_bytes": 2 * WINDOW,
                    "micro_batch_bytes": 2 * WINDOW // micro_batches,
                    "ratio_loss_scope": scope,
                },
            }
            return load_config(RunConfig, tree)

        undisturbed, expected = train(run_config("undisturbed"), STEPS)
        before, _ = train(run_config("resumed"), stop_after)
        after, weights = train(run_config("resumed"), STEPS - stop_after)
    assert before + after == undisturbed
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
