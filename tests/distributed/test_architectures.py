"""Law 4: every shipped architecture, in miniature, trains under ZeRO-3 on two ranks as in one process, and so does a
sample of random combinations of parts."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from unequal import deepspeed_file, whole_state

from hnet.config import load_config
from hnet.config.library import config_names
from hnet.data.batch import IGNORE, Batch
from hnet.model.config import ModelConfig
from hnet.testing.combinations import narrowed, random_combination, random_text, registered
from hnet.testing.ranks import run_distributed
from hnet.training.building import prepare
from hnet.training.config import RunConfig
from hnet.training.engine import open_engine
from hnet.training.step import TrainStep

STEPS = 2
RUN = {
    "output_dir": "unused",
    "data": {"train": "unused", "sequence_length": 64},
    "training": {"steps": 10, "global_batch_bytes": 256, "micro_batch_bytes": 64},
    "optimizer": {"learning_rate": 1e-3, "weight_decay": 0.1, "gradient_clip": 0.5},
}
LENGTHS = ([3, 1, 40], [30], [1, 1, 2, 5], [60])
"""Text units of the documents of the four micro-batches of a step: the ranks' chunks are far apart."""


def batch(config: ModelConfig, lengths: list[int], draw: random.Random) -> Batch:
    layout = config.layout()
    laid_out = [layout.lay_out(np.array(random_text(length, draw))) for length in lengths]
    labels = torch.from_numpy(np.concatenate([document.labels for document in laid_out]))
    ids = torch.from_numpy(np.concatenate([document.ids for document in laid_out]))
    cu_seqlens = torch.tensor([0, *(len(document.ids) for document in laid_out)]).cumsum(0).int()
    marks = [document.marks for document in laid_out if document.marks is not None]
    targets = int((labels != IGNORE).sum())
    windows = torch.tensor([[len(lengths), targets]])
    return Batch(
        ids, labels, cu_seqlens, targets, targets, windows, torch.from_numpy(np.concatenate(marks)) if marks else None
    )


def models() -> dict[str, dict[str, Any]]:
    """Shipped models that continue text, and combinations of all parts, which are wanted in turn."""
    shipped = {name: load_config(ModelConfig, name) for name in config_names("models")}
    small = {name: narrowed(config) for name, config in shipped.items() if config.is_causal}
    different = {str(config): (name, config) for name, config in small.items() if config.vocab_size == 256}
    parts = registered()
    drawn = {f"combination {seed}": random_combination(seed, parts[seed]) for seed in range(0, len(parts), 3)}
    return {name: config.model_dump(mode="json") for name, config in [*different.values(), *drawn.items()]}


def curves(rank: int, trees: dict[str, dict[str, Any]], engine: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Of each model: losses and gradient norms of its steps, and the first gradient of every parameter."""
    result = {}
    for name, tree in trees.items():
        config = load_config(RunConfig, {**RUN, "model": tree, "engine": engine})
        AcceleratorState._reset_state(reset_partial_state=True)
        trainer = open_engine(config)
        prepare(config, trainer)
        step, results, gradients = TrainStep(config, trainer), [], []
        for number in range(1, STEPS + 1):
            draw = random.Random(number)
            batches = [batch(config.model, lengths, draw) for lengths in LENGTHS]
            share = len(batches) // trainer.world_size
            own = batches[trainer.rank * share : (trainer.rank + 1) * share]
            results.append(step(own, number))
            if number == 1:
                state = whole_state(trainer)
                # After one update AdamW's first moment is a tenth of the clipped gradient.
                gradients = [values for tensor, values in sorted(state.items()) if tensor.startswith("exp_avg/")]
        result[name] = {
            "gradients": gradients,
            "loss": [outcome.loss for outcome in results],
            "grad_norm": [outcome.grad_norm for outcome in results],
            "chunks": [[stage.chunks for stage in outcome.stages] for outcome in results],
        }
    return result


def test_two_ranks_under_zero_3_train_like_one_process(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    trees = models()
    assert len(trees) > 15
    alone = curves(0, trees, {})
    for results in run_distributed(curves, 2, trees, deepspeed_file(tmp_path), timeout=900):
        for name, result in results.items():
            assert result["chunks"] == alone[name]["chunks"], name
            for key in ("loss", "grad_norm", "gradients"):
                torch.testing.assert_close(
                    result[key], alone[name][key], atol=1e-5, rtol=1e-3, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}"
                )
