"""Configurations of the pools."""

from typing import Literal

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


def _projection(sizes: PartSizes) -> list[Weight]:
    return [Weight(sizes.width * sizes.chunk_width)] if sizes.width != sizes.chunk_width else []
