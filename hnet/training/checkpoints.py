"""What a checkpoint holds, and how a run continues from one. One format for every engine and number of ranks.

    config.yaml             the resolved run
    model.safetensors       fp32 weights by parameter name; `hnet.load` reads these two
    optimizer.safetensors   AdamW's moments, `exp_avg/NAME` and `exp_avg_sq/NAME`
    random.safetensors      torch's generators of every rank
    state.json              counters and the position in the data
    manifest.json           size and checksum of each of these, written last

Nothing is pickled, so nothing can be run by loading.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hnet.config import load_config, save_config
from hnet.data.stream import TrainStream
from hnet.distributed.collectives import barrier, gather_objects
from hnet.errors import CheckpointError, ConfigError
from hnet.model.loading import CONFIG, WEIGHTS
from hnet.training.checkpoint_folder import CheckpointFolder
from hnet.training.config import RunConfig
from hnet.training.engine import Engine
from hnet.training.state import TrainState

MOMENTS = "optimizer.safetensors"
RANDOM = "random.safetensors"
STATE = "state.json"


def save_checkpoint(
    folder: CheckpointFolder, config: RunConfig, engine: Engine, state: TrainState, stream: TrainStream
) -> None:
    """Write everything after `state.step` steps. Every rank must call; rank 0 writes."""
    weights, moments = engine.gather_weights(), engine.gather_moments()
    random = {
        f"rank{rank}/{device}": generator
        for rank, generators in enumerate(gather_objects(_random_state(engine.device)))
        for device, generator in generators.items()
    }
    counters: dict[str, Any] = {**asdict(state), "data": stream.state_dict()}

    def write(draft: Path) -> None:
        save_config(config, draft / CONFIG)
        save_file(weights, draft / WEIGHTS, metadata={"format": "pt"})
        save_file(moments, draft / MOMENTS)
        save_file(random, draft / RANDOM)
        (draft / STATE).write_text(json.dumps(counters))

    if engine.is_main:
        folder.publish(state.step, write, keep=config.training.keep_checkpoints)
    barrier()


def check_model_fits(checkpoint: Path, config: RunConfig) -> None:
    """Raises ConfigError that names the keys in which the run's model differs from the checkpoint's."""
    saved = load_config(RunConfig, checkpoint / CONFIG)
    differences = differing_keys(saved.model.model_dump(mode="json"), config.model.model_dump(mode="json"), "model")
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


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Copy the saved weights into `model`, before an engine has prepared it."""
    weights = _load(checkpoint / WEIGHTS)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(_entry(weights, name, checkpoint / WEIGHTS))


def load_progress(checkpoint: Path, engine: Engine, stream: TrainStream) -> TrainState:
    """Bring a prepared engine, the data and the random generators to where the checkpoint was written."""
    path = checkpoint / STATE
    try:
        counters = json.loads(path.read_text())
        position = counters.pop("data")
        state = TrainState(**counters)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); use another checkpoint of the run") from error
    engine.load_moments(_load(checkpoint / MOMENTS), state.num_updates)
    stream.load_state_dict(position)
    _restore_random(_load(checkpoint / RANDOM), engine)
    return state


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


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


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


def _entry(tensors: Mapping[str, Tensor], name: str, path: Path) -> Tensor:
    if name not in tensors:
        raise CheckpointError(f"{path} has no tensor {name!r}: it belongs to another model")
    return tensors[name]
