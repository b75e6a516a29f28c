"""Configurations of the pools."""

from typing import ClassVar, Literal

from hnet.model.config.layers import PositiveInt
from hnet.model.config.part import Cost, PartSizes, PoolConfig, Weight


class SelectConfig(PoolConfig):
    """The chunk's vector is the encoder state at its boundary unit."""

    type: Literal["select"] = "select"
    widening: Literal["learned_pad", "zero_left", "linear"] = "learned_pad"
    """Where the stage inside is wider: it appends learned channels (H-Net), zeros come before the vector's own
    (SpaceByte), or the vector is projected (AU-Net)."""

    @property
    def reads_whole(self) -> bool:
        return False

    def chunk_width(self, width: int, inner_width: int) -> int:
        return width if self.widening == "learned_pad" else inner_width

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return _projection(sizes) if self.widening == "linear" else []

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(chunk=2.0 * sum(weight.numbers for weight in self.weights(sizes)))

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=float(sizes.width * dtype_bytes) if self.weights(sizes) else 0.0)


class ReduceConfig(PoolConfig):
    """One vector of all units of a chunk, projected where the stage inside is wider."""

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return _projection(sizes)

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(unit=float(sizes.width), chunk=2.0 * sum(weight.numbers for weight in self.weights(sizes)))

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=float(sizes.width * dtype_bytes) if self.weights(sizes) else 0.0)


class MeanConfig(ReduceConfig):
    """The mean of the chunk's units (Hourglass, arXiv 2110.13711; dynamic pooling, arXiv 2211.09761)."""

    type: Literal["mean"] = "mean"


class MaxConfig(ReduceConfig):
    """The elementwise maximum of the chunk's units."""

    type: Literal["max"] = "max"

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=super().activations(sizes, dtype_bytes).chunk + 4.0 * sizes.width)


class PrefixPoolConfig(PoolConfig):
    """The states of a chunk's first units, each a unit of the stage inside (HAT: 1, Learn Your Tokens: 4).

    They represent the chunk if they are separators, and the encoder sees the whole chunk.
    """

    type: Literal["prefix"] = "prefix"
    num_units: PositiveInt = 1
    """p."""

    @property
    def positions(self) -> int:
        return self.num_units

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return _projection(sizes)

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(chunk=2.0 * self.num_units * sum(weight.numbers for weight in self.weights(sizes)))

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=1.0 * self.num_units * sizes.width * dtype_bytes)


class ConcatConfig(PoolConfig):
    """A chunk's units side by side, projected to the width of the stage inside (MEGABYTE)."""

    needs_equal_chunks: ClassVar[bool] = True

    type: Literal["concat"] = "concat"

    def num_units(self, sizes: PartSizes) -> int:
        """Units that are concatenated: those that are no separators."""
        return int(sizes.units_per_chunk) - sizes.num_separators

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return [Weight(self.num_units(sizes) * sizes.width * sizes.inner_width)]

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(chunk=2.0 * self.num_units(sizes) * sizes.width * sizes.inner_width)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=1.0 * self.num_units(sizes) * sizes.width * dtype_bytes)


def _projection(sizes: PartSizes) -> list[Weight]:
    return [Weight(sizes.width * sizes.chunk_width)] if sizes.width != sizes.chunk_width else []
