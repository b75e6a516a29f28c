"""One line of `metrics.jsonl` from the results of the steps since the last."""

import math
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

from hnet.model.accounting import training_flops_per_byte
from hnet.training.config import RunConfig
from hnet.training.state import TrainState
from hnet.training.step import StageStatistics, StepResult

TIMING_FIELDS = ("bytes_per_second", "mfu", "peak_memory_bytes")
"""Fields of a row that depend on the machine; all others are the same in every repetition of a run."""


@dataclass(slots=True)
class Throughput:
    """Work and wall time since the last logged step, over all ranks."""

    seconds: float = 0.0
    target_bytes: int = 0
    flops: float = 0.0

    def add(self, config: RunConfig, result: StepResult, seconds: float) -> None:
        """Count one step."""
        self.seconds += seconds
        self.target_bytes += result.target_bytes
        self.flops += training_flops(config, result)


def training_flops(config: RunConfig, result: StepResult) -> float:
    """Model FLOPs of one step: three times the forward pass at the chunk counts that occurred, and one forward pass of
    the model that the boundaries ask, if they ask one.

    What activation checkpointing repeats is not counted: it is a cost, not work done.
    """
    return result.units * training_flops_per_byte(config.model, result.units_per_stage, result.context)


def build_row(
    result: StepResult, state: TrainState, work: Throughput, *, flops: float, peak_flops: float, peak_memory: int
) -> dict[str, Any]:
    """The fields of the contract. `flops` of this step; `peak_flops` of all ranks together; `peak_memory` of the
    largest. A number that is not finite is null, since JSON has no other word for it."""
    row: dict[str, Any] = {
        "step": result.step,
        "bytes_seen": state.bytes_seen,
        "loss": _finite(result.loss),
        **{name: _finite(value) for name, value in result.measures.items()},
        "boundary": [_boundary(stage) for stage in result.stages],
        "learning_rate": result.learning_rate,
        "grad_norm": _finite(result.grad_norm),
        "bytes_per_second": work.target_bytes / work.seconds,
        "flops_per_byte": flops / result.target_bytes,
        "mfu": work.flops / work.seconds / peak_flops,
        "peak_memory_bytes": peak_memory,
    }
    if any(ratio != 1 for ratio in result.imbalance):
        row["imbalance"] = list(result.imbalance)
    if state.skipped_steps:
        row["skipped_steps"] = state.skipped_steps
    return row


def _boundary(stage: StageStatistics) -> dict[str, Any]:
    row = {"bytes_per_chunk": _finite(stage.bytes_per_chunk), "ratio_loss": _finite(stage.ratio_loss)}
    return row if stage.dropped is None else row | {"dropped_boundaries": stage.dropped}


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory this process has held: allocated on its accelerator, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
