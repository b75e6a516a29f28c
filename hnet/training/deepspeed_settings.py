"""The DeepSpeed configuration of a run: made from `engine`, or read from the user's JSON file and checked against the
rest of the run. Imports no DeepSpeed.

What DeepSpeed 0.19 does when a key is left out is not always what one expects: without `gradient_clipping` it clips at
1.0, and an optimizer named in the file is compiled on a CPU for minutes. So everything that the run decides is written.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hnet.errors import ConfigError
from hnet.model.accounting import count_parameters
from hnet.training.config import RunConfig

AUTO = "auto"
_REFUSED = {
    "fp16": "there is no fp16 training; use training.precision: bf16",
    "amp": "there is no apex training; use training.precision: bf16",
    "torch_autocast": "precision is the run's affair; use training.precision: bf16",
}
_MISSING = object()


def deepspeed_settings(
    config: RunConfig, world_size: int, *, default_stage: int = 1, on_gpu: bool = False
) -> dict[str, Any]:
    """What `deepspeed.initialize` is given. `default_stage` is for a configuration that names none.

    Raises ConfigError that names the file and key where the user's file contradicts the run, or asks for what cannot
    be done.
    """
    engine = config.engine
    zero = _zero_settings(config, engine.zero_stage if engine.zero_stage is not None else default_stage, on_gpu)
    settings: dict[str, Any] = {"steps_per_print": 1_000_000_000}
    if engine.deepspeed_config is not None:
        file = Path(engine.deepspeed_config)
        given = _read(file)
        _check(given, config, world_size, file)
        theirs = {key: value for key, value in given.get("zero_optimization", {}).items() if value != AUTO}
        zero = _zero_settings(config, int(theirs.get("stage", 0)), on_gpu) | theirs
        settings |= {key: value for key, value in given.items() if value != AUTO and key not in _OURS}
    elif engine.communication == "bf16":
        settings["communication_data_type"] = "bf16"
    if (group := zero.get("zero_hpz_partition_size", 1)) > 1 and world_size % group:
        raise ConfigError(f"engine: groups of {group} ranks to shard parameters in do not divide {world_size} ranks")
    return settings | {
        # The step scales losses by targets of the whole global batch and says when a step ends; DeepSpeed counts none.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # Stage 0 reports no norm, so the engine clips there by itself.
        "gradient_clipping": config.optimizer.gradient_clip if zero["stage"] else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _zero_settings(config: RunConfig, stage: int, on_gpu: bool) -> dict[str, Any]:
    """Buckets by the size of the model: several a pass, so that communication overlaps with computation, and none
    larger than 200 MB (DeepSpeed's default reserves 2 GB)."""
    num_parameters = count_parameters(config.model)
    bucket = min(50_000_000, max(num_parameters // 8, 1_000_000))
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": on_gpu,
        "reduce_bucket_size": min(bucket, num_parameters),
        "allgather_bucket_size": min(bucket, num_parameters),
    }
    engine = config.engine
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": on_gpu}
    if stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": bucket,
            # Norms, biases and short convolutions stay whole: gathering them would cost latency and spare nothing.
            "stage3_param_persistence_threshold": 10 * max(layer.d_model for layer in config.model.stages),
            # Whole parameters at a time: with the default of 1e9 most models would never be let go of.
            "stage3_max_live_parameters": 4 * bucket,
            "stage3_max_reuse_distance": 4 * bucket,
        }
        if engine.offload == "all":
            zero["offload_param"] = {"device": "cpu", "pin_memory": on_gpu}
        if engine.shard_group is not None:
            zero["zero_hpz_partition_size"] = engine.shard_group
    return zero


_OURS = {
    "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
    "optimizer", "scheduler", "bf16", "fp16", "amp", "torch_autocast", "zero_optimization",
}  # fmt: skip
"""Keys of a user's file that are compared with the run, or refused, and never handed on as they are."""


def _read(file: Path) -> dict[str, Any]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"engine.deepspeed_config: cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"engine.deepspeed_config: {file} is not JSON: {error}") from error
    if not isinstance(given, dict) or not isinstance(given.get("zero_optimization", {}), dict):
        raise ConfigError(f"engine.deepspeed_config: {file} must hold a JSON object, and so must its zero_optimization")
    return given


def _check(given: dict[str, Any], config: RunConfig, world_size: int, file: Path) -> None:
    for key, problem in _problems(given, config, world_size):
        raise ConfigError(f"{file}: {key}: {problem}")


def _problems(given: dict[str, Any], config: RunConfig, world_size: int) -> Iterator[tuple[str, str]]:
    """Keys of the file that this run cannot follow, and why."""
    stage = _value(given, "zero_optimization.stage")
    if stage is not _MISSING and stage not in (0, 1, 2, 3):
        yield "zero_optimization.stage", f"{stage!r} is not 0, 1, 2 or 3"
    for key, wanted, name in _decided_by_run(config, world_size // config.engine.sequence_parallel):
        value = _value(given, key)
        if value not in (_MISSING, AUTO) and value != wanted:
            yield key, f'{value!r} contradicts {name}, which makes it {wanted!r}; change one, or write "auto"'
    optimizer = str(_value(given, "optimizer.type")).lower()
    if "optimizer" in given and optimizer not in (AUTO, "adamw"):
        yield (
            "optimizer.type",
            f"{given['optimizer'].get('type')!r}: the optimizer is AdamW; see `optimizer` of the run",
        )
    if "scheduler" in given and any(value != AUTO for value in given["scheduler"].get("params", {AUTO: None}).values()):
        yield "scheduler", "the learning rate follows `schedule` of the run; leave this section out"
    for key, remedy in _REFUSED.items():
        if _value(given, f"{key}.enabled") not in (_MISSING, False, AUTO):
            yield f"{key}.enabled", remedy
    for key in ("offload_param", "offload_optimizer"):
        if _value(given, f"zero_optimization.{key}.device") == "nvme":
            yield f"zero_optimization.{key}.device", 'state on NVMe cannot be saved in a checkpoint; use "cpu"'
    for key in ("mics_shard_size", "mics_hierarchical_params_gather"):
        if key in given.get("zero_optimization", {}):
            yield f"zero_optimization.{key}", "DeepSpeed has dropped MiCS; use zero_hpz_partition_size"
    if _value(given, "zero_optimization.round_robin_gradients") is True:
        yield "zero_optimization.round_robin_gradients", "checkpoints do not know this layout; leave it out"


def _decided_by_run(config: RunConfig, world_size: int) -> Iterator[tuple[str, Any, str]]:
    """Key of a DeepSpeed file, the value it has in this run, and the settings that decide it. Sizes are in windows of
    `data.sequence_length`; `world_size` counts the ranks with micro-batches of their own."""
    training, optimizer = config.training, config.optimizer
    windows = training.global_batch_bytes // config.data.sequence_length
    micro = (training.micro_batch_bytes or -(-training.global_batch_bytes // world_size)) // config.data.sequence_length
    yield "train_batch_size", windows, "training.global_batch_bytes / data.sequence_length"
    yield "train_micro_batch_size_per_gpu", micro, "training.micro_batch_bytes / data.sequence_length"
    steps = -(-windows // (world_size * micro)) if micro else 1
    yield "gradient_accumulation_steps", steps, "training.global_batch_bytes and micro_batch_bytes"
    yield "gradient_clipping", optimizer.gradient_clip, "optimizer.gradient_clip"
    yield "bf16.enabled", training.precision == "bf16", "training.precision"
    yield "optimizer.params.lr", optimizer.learning_rate, "optimizer.learning_rate"
    yield "optimizer.params.betas", list(optimizer.betas), "optimizer.betas"
    yield "optimizer.params.eps", optimizer.eps, "optimizer.eps"
    yield "optimizer.params.weight_decay", optimizer.weight_decay, "optimizer.weight_decay"


def _value(tree: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return _MISSING
        tree = tree[part]
    return tree
