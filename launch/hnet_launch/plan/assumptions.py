"""What the planner cannot know and assumes. Every one is printed, and most can be given."""

import math
from dataclasses import dataclass

from hnet.errors import ConfigError
from hnet.model.config import ModelConfig

REACHED_OF_TARGET = 0.78
"""Bytes per innermost chunk over the product of the ratio targets: released models reached 4.7 to 4.8 for 6, and 6.9 to
7.0 for 9 (H-Net paper, section 3)."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Shares are between 0 and 1."""

    bytes_per_chunk: tuple[float, ...]
    """Bytes per chunk after each chunking stage, outermost first."""
    utilization: float = 0.35
    """Of the GPU's bf16 rate while it computes; with activation checkpointing the recomputation is computed too."""
    link_efficiency: float = 0.7
    """Of the links' rates."""
    overlap: float = 0.7
    """Of the communication time that computation can hide."""
    waiting: float = 0.02
    """Of the step: time lost to the slowest rank, as `hnet plan --simulate` reports it."""
    usable_memory: float = 0.92
    """Of the GPU's memory; the rest is the CUDA context, libraries and fragmentation."""
    overhead_power: float = 0.5
    """Of the GPUs' power on top of it: hosts, network, cooling."""


def expected_bytes_per_chunk(model: ModelConfig) -> tuple[float, ...]:
    """Bytes per chunk after each chunking stage: what its boundaries expect, and of learned ones the targets, as far as
    released models reached them."""
    boundaries = [stage.boundary for stage in model.stages[:-1]]
    reached = REACHED_OF_TARGET ** (1 / max(1, sum(boundary.is_learned for boundary in boundaries)))
    ratios = [max(1.0, kind.text_per_chunk * (reached if kind.is_learned else 1.0)) for kind in boundaries]
    return tuple(math.prod(ratios[: index + 1]) for index in range(len(ratios)))


def check_bytes_per_chunk(model: ModelConfig, values: tuple[float, ...]) -> tuple[float, ...]:
    """Raises ConfigError unless there is one number per chunking stage, from 1 and not falling."""
    num = len(model.stages) - 1
    rising = all(before <= after < math.inf for before, after in zip((1.0, *values), values, strict=False))
    if len(values) != num or not rising:
        raise ConfigError(
            f"--bytes-per-chunk {','.join(f'{value:g}' for value in values)}: the model has {num} chunking stages: "
            f"give {num} numbers from 1, bytes per chunk after each, outermost first, none smaller than the one before"
        )
    return values
