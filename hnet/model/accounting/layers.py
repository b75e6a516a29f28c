"""Sizes that the counts of a layer share."""

from collections.abc import Iterator, Sequence

from hnet.model.config import ModelConfig, StageConfig

STACKS = ("encoder", "main", "decoder")


def stacks(stage: StageConfig) -> Iterator[tuple[str, str, str]]:
    """Name, layer string and mask of every stack of a stage, in the order of the computation."""
    for name in STACKS:
        layers = getattr(stage, name)
        if layers is not None:
            yield name, layers, getattr(stage, f"{name}_mask")


def kv_width(stage: StageConfig) -> int:
    """Channels of all heads of keys."""
    return stage.d_model // stage.attention.num_heads * stage.attention.kv_heads


def mamba_sizes(stage: StageConfig) -> tuple[int, int, int]:
    """(di, heads, channels of the convolution di + 2N) of a Mamba-2 layer."""
    inner = stage.ssm.expand * stage.d_model
    return inner, inner // stage.ssm.head_dim, inner + 2 * stage.ssm.d_state


def units_per_count(config: ModelConfig) -> list[int]:
    """Units of every stage for each of what is counted of it: 1 of the outermost, then those of a chunk."""
    return [1, *(stage.pool.positions for stage in config.stages[:-1])]


def check_units(config: ModelConfig, units: Sequence[float]) -> None:
    """Raises ValueError unless there is a count for each stage, none negative."""
    if len(units) != len(config.stages):
        raise ValueError(f"{len(units)} unit counts given for {len(config.stages)} stages: give one per stage")
    if min(units) < 0:
        raise ValueError(f"unit counts must not be negative, got {list(units)}")
