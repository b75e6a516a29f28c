"""Training without files on ranks that have very unequal chunks: what the tests of engines run on every rank.

Each step has four windows of 48 bytes: A all boundaries at the first stage (two bytes with opposite embeddings take
turns), B random documents, C none but the first of each document (one byte repeated), D documents of one byte and a
rest. Two ranks take A, B and C, D; of four each takes one.
"""

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

from hnet.config import load_config
from hnet.data.batch import IGNORE, Batch
from hnet.distributed.collectives import gather_objects
from hnet.model.language_model import LanguageModel
from hnet.testing.state_bytes import measured
from hnet.training.building import prepare
from hnet.training.config import RunConfig
from hnet.training.engine import Engine, open_engine
from hnet.training.fragments import MOMENTS, Read
from hnet.training.step import StepResult, TrainStep

WINDOW = 48
MODEL = {
    "stages": [
        {"d_model": 16, "encoder": "m1", "decoder": "m1", "ssm": {"d_state": 4, "head_dim": 8}},
        {
            "d_model": 16,
            "encoder": "T1",
            "decoder": "m1",
            "ssm": {"d_state": 4, "head_dim": 8},
            "attention": {"num_heads": 2, "rotary_dim": 4},
        },
        {"d_model": 24, "main": "T1", "attention": {"num_heads": 2, "rotary_dim": 4}},
    ]
}


def make_config(engine: Mapping[str, Any], *overrides: str) -> RunConfig:
    """The run on an engine; clipping bites, weight decay is felt, every stage has a learning rate of its own."""
    tree = {
        "output_dir": "unused",
        "model": MODEL,
        "data": {"train": "unused", "sequence_length": WINDOW},
        "training": {"steps": 50, "global_batch_bytes": 4 * WINDOW, "micro_batch_bytes": WINDOW},
        "optimizer": {
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "gradient_clip": 0.5,
            "lr_multipliers": [2.0, 1.0, 0.5],
        },
        "engine": dict(engine),
    }
    return load_config(RunConfig, tree, overrides)


def deepspeed_file(folder: Path, **zero: Any) -> dict[str, Any]:
    """Engine settings with a DeepSpeed file in which no parameter is too small to be sharded."""
    file = folder / f"zero{len(list(folder.iterdir()))}.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0, **zero}}))
    return {"deepspeed_config": str(file)}


def windows(step: int) -> list[list[list[int]]]:
    """The documents of windows A, B, C and D of a step."""
    draw = random.Random(step)
    return [
        [[65, 66] * (WINDOW // 2)],
        [[draw.randrange(97, 123) for _ in range(n)] for n in (5, 11, 32)],
        [[67] * 20, [67] * 28],
        [[draw.randrange(97, 123)] for _ in range(8)] + [[draw.randrange(97, 123) for _ in range(WINDOW - 8)]],
    ]


def batch(documents: list[list[int]]) -> Batch:
    ids = torch.tensor([unit for document in documents for unit in document])
    labels = torch.tensor([unit for document in documents for unit in [*document[1:], IGNORE]])
    cu_seqlens = torch.tensor([0, *map(len, documents)]).cumsum(0).int()
    targets = int((labels != IGNORE).sum())
    return Batch(ids, labels, cu_seqlens, targets, targets, torch.tensor([[len(documents), targets]]))


def micro_batches(step: int, rank: int, world_size: int) -> list[Batch]:
    share = 4 // world_size
    return [batch(documents) for documents in windows(step)[rank * share : (rank + 1) * share]]


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    """Where to start: as initialised, but bytes 65 and 66 have opposite embeddings, and all are large enough that
    training does not bring them together."""
    torch.manual_seed(config.training.seed)
    model = LanguageModel(config.model)
    named = {f"weight/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    named["weight/embedding.weight"] *= 3
    named["weight/embedding.weight"][66] = -named["weight/embedding.weight"][65]
    return named


def reader(tensors: Mapping[str, torch.Tensor]) -> Read:
    return lambda tensor, start, stop: tensors[tensor].flatten()[start:stop]


def start(config: RunConfig) -> Engine:
    """An engine beside those that this process has had, with a model that has `weights`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    engine = open_engine(config)
    prepare(config, engine)
    engine.load(reader(weights(config)), 0)
    return engine


def train(config: RunConfig, engine: Engine, steps: Iterable[int]) -> tuple[list[StepResult], dict[str, int]]:
    """The results of these steps, and the most bytes of state."""
    step = TrainStep(config, engine)
    with measured(engine) as figures:
        results = [step(micro_batches(number, engine.rank, engine.world_size), number) for number in steps]
    return results, figures


def whole_state(engine: Engine) -> dict[str, torch.Tensor]:
    """All ranks' fragments put together. Fails where one is missing, or an element comes twice."""
    shapes = engine.shapes()
    own = [(fragment.tensor, fragment.start, fragment.values.clone()) for fragment in engine.fragments()]
    times: dict[str, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, begin, values in (piece for pieces in gather_objects(own) for piece in pieces):
        size = shapes[name.partition("/")[2]].numel()
        state.setdefault(name, torch.zeros(size))[begin : begin + values.numel()] = values
        times.setdefault(name, torch.zeros(size))[begin : begin + values.numel()] += 1
    kinds = {name.partition("/")[0] for name in state}
    assert state.keys() == {f"{kind}/{name}" for kind in kinds for name in shapes}
    assert all(bool((count == 1).all()) for count in times.values())
    assert {"weight"} <= kinds <= {"weight", *MOMENTS}
    return state
