"""What a checkpoint holds, and how a run continues from one: on any engine, ZeRO stage and number of ranks.

    config.yaml             the resolved run
    model.safetensors       fp32 weights by parameter name; `hnet.load` reads these two
    optimizer.safetensors   AdamW's moments, `exp_avg/NAME` and `exp_avg_sq/NAME`
    random.safetensors      torch's generators of every rank, `rankR/cpu` and `rankR/cuda`, and with `engine.balance`
                            what it has learnt of the routers, `balance/...`
    state.json              counters and the position in the data
    manifest.json           size and checksum of each of these, written last

One process writes whole tensors. N ranks write what they hold, each its own two files, and rank 0 an index of them:

    model-RRRRR-of-NNNNN.safetensors, optimizer-RRRRR-of-NNNNN.safetensors
                            pieces of flattened tensors under the same names; several pieces of one tensor are joined
    index.json              {"version": 1, "shapes": {NAME: shape}, "files": {FILE: {TENSOR: [[start, stop], ...]}}}

The pieces are those of the engine that wrote them, without padding, and each rank of the run that reads takes the
ranges it needs from the mapped files. So there is one format: none of DeepSpeed's own, and nothing to convert between
numbers of ranks. Nothing is pickled, so nothing can be run by loading. `checkpoint_writer.py` writes,
`hnet.model.saved_tensors` reads, `checkpoint_folder.py` keeps the folder whole through crashes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hnet.config import load_config
from hnet.data.stream import TrainStream
from hnet.distributed.balance import WindowBalance
from hnet.distributed.collectives import broadcast_object, gather_objects
from hnet.errors import CheckpointError, ConfigError
from hnet.model.loading import CONFIG
from hnet.model.saved_tensors import SavedTensors
from hnet.training.checkpoint_folder import CheckpointFolder
from hnet.training.checkpoint_writer import BALANCE, RANDOM, STATE
from hnet.training.config import RunConfig
from hnet.training.engine import Engine
from hnet.training.fragments import WEIGHT
from hnet.training.state import TrainState


def checkpoint_to_resume(folder: CheckpointFolder, engine: Engine) -> Path | None:
    """The latest checkpoint, verified; None if there is none. Rank 0 looks and tidies up; all ranks share the reading.

    Raises CheckpointError, the same on every rank, if it is damaged.
    """
    if engine.is_main:
        folder.clean_up()
    checkpoint: Path | None = broadcast_object(folder.latest() if engine.is_main else None)
    if checkpoint is None:
        return None
    error = None
    try:
        folder.verify(checkpoint, part=engine.rank, num_parts=engine.world_size)
    except CheckpointError as own:
        error = own
    first = next((error for error in gather_objects(error) if error is not None), None)
    if first is not None:
        first.on_every_rank = True
        raise first
    return checkpoint


def check_model_fits(checkpoint: Path, config: RunConfig) -> None:
    """Raises ConfigError that names the keys in which the run's model differs from the checkpoint's."""
    saved = load_config(RunConfig, checkpoint / CONFIG)
    # What lies elsewhere now is compared by its content, with the position in the data.
    old, new = (model.kept_in(checkpoint).model_dump(mode="json") for model in (saved.model, config.model))
    differences = differing_keys(old, new, "model")
    if differences:
        raise ConfigError(
            f"the run in {config.output_dir} has another model: "
            + "; ".join(f"{key} was {old!r} and is now {new!r}" for key, old, new in differences[:8])
            + ". Restore it to resume, or choose another output_dir for a new run"
        )


def changed_settings(checkpoint: Path, config: RunConfig) -> list[str]:
    """Settings outside the model that differ from the checkpoint's, as `key: old -> new`."""
    saved = load_config(RunConfig, checkpoint / CONFIG)
    differences = differing_keys(saved.model_dump(mode="json"), config.model_dump(mode="json"), "")
    return [f"{key}: {old!r} -> {new!r}" for key, old, new in differences]


def load_checkpoint(checkpoint: Path, engine: Engine, stream: TrainStream) -> TrainState:
    """Bring a prepared engine, the data and the random generators to where the checkpoint was written.

    Raises CheckpointError if something is damaged or belongs to another model.
    """
    path = checkpoint / STATE
    try:
        counters = json.loads(path.read_text())
        position = counters.pop("data")
        state = TrainState(**counters)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); use another checkpoint of the run") from error
    weights, moments = SavedTensors(checkpoint, "model"), SavedTensors(checkpoint, "optimizer")

    def read(tensor: str, start: int, stop: int) -> Tensor:
        name = tensor.removeprefix(f"{WEIGHT}/")
        return (moments if name == tensor else weights).read(name, start, stop)

    _check_shapes(weights, engine.shapes())
    engine.load(read, state.num_updates)
    stream.load_state_dict(position)
    _restore_random(_load(checkpoint / RANDOM), engine)
    return state


def load_balance(checkpoint: Path, balance: WindowBalance) -> None:
    """Continue with what the saved run had learnt; one that had nothing to learn leaves `balance` as it is."""
    arrays = _load(checkpoint / RANDOM)
    learnt = {name.removeprefix(BALANCE): arrays[name].numpy() for name in arrays if name.startswith(BALANCE)}
    if learnt:
        balance.load_state_dict(learnt)


def differing_keys(old: Any, new: Any, prefix: str) -> list[tuple[str, Any, Any]]:
    """Paths of the leaves in which two trees of mappings and lists differ, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            difference
            for key in dict.fromkeys([*old, *new])
            for difference in differing_keys(old.get(key), new.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            difference
            for index, (left, right) in enumerate(zip(old, new, strict=True))
            for difference in differing_keys(left, right, f"{prefix}[{index}]")
        ]
    return [] if old == new else [(prefix, old, new)]


def _check_shapes(weights: SavedTensors, shapes: Mapping[str, torch.Size]) -> None:
    """On every rank alike, before any rank reads a part of them."""
    for name, shape in shapes.items():
        if weights.shapes.get(name) != shape:
            found = weights.shapes.get(name, "not there")
            raise CheckpointError(
                f"{weights.source} belongs to another model: {name} is {found}, the run's is {tuple(shape)}; "
                "choose another output_dir for a new run"
            )


def _restore_random(states: Mapping[str, Tensor], engine: Engine) -> None:
    """This rank's generators; a rank that the saved run did not have keeps its own."""
    if (cpu := states.get(f"rank{engine.rank}/cpu")) is not None:
        torch.set_rng_state(cpu)
    if engine.device.type == "cuda" and (cuda := states.get(f"rank{engine.rank}/cuda")) is not None:
        torch.cuda.set_rng_state(cuda, engine.device)


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); use another checkpoint of the run") from error
