"""Configurations of the unpools."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hnet.model.config.part import Cost, PartSizes, UnpoolConfig, Weight


class EMAConfig(UnpoolConfig):
    """H-Net's smoothing: exponential moving average over chunks, repeated over each chunk's units."""

    needs_own_chunk: ClassVar[bool] = True
    needs_stage_width: ClassVar[bool] = True

    type: Literal["ema"] = "ema"


class NoneConfig(UnpoolConfig):
    """The outermost stage gives its chunks themselves (Byte2Word, arXiv 2211.12677)."""

    gives_chunks: ClassVar[bool] = True

    type: Literal["none"] = "none"


class NarrowingConfig(UnpoolConfig):
    """Chunks come back to the width of the stage's units before they are added to them."""

    narrowing: Literal["linear", "last"] = "linear"
    """Where a chunk has more channels than a unit: projected, or its last channels (after `widening: zero_left`)."""

    def weights(self, sizes: PartSizes) -> list[Weight]:
        if self.narrowing == "last" or sizes.chunk_width == sizes.width:
            return []
        return [Weight(sizes.chunk_width * sizes.width)]

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(unit=float(sizes.width), chunk=2.0 * sum(weight.numbers for weight in self.weights(sizes)))

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=float((sizes.chunk_width + sizes.width) * dtype_bytes))


class RepeatConfig(NarrowingConfig):
    """Every unit is given the latest chunk that it may see; before the first one a learned vector."""

    type: Literal["repeat"] = "repeat"

    def weights(self, sizes: PartSizes) -> list[Weight]:
        narrow = super().weights(sizes)
        return [*narrow, Weight(sizes.width, is_linear=False)] if sizes.reads_whole else narrow


class ScatterConfig(NarrowingConfig):
    """A chunk is given to one unit alone: the first that may see it (SpaceByte, arXiv 2404.14408)."""

    follows_runs: ClassVar[bool] = True

    type: Literal["scatter"] = "scatter"


class OffsetLinearConfig(UnpoolConfig):
    """Every unit is given the latest chunk that it may see through a matrix for its distance from the first unit that
    saw it (AU-Net, arXiv 2506.14761, section 2.2)."""

    follows_runs: ClassVar[bool] = True

    type: Literal["offset_linear"] = "offset_linear"
    num_offsets: Annotated[int, Field(ge=1)] = 16
    """K: at distance o the matrix is W + W_k with k = o mod K."""

    def weights(self, sizes: PartSizes) -> list[Weight]:
        start = [Weight(sizes.chunk_width, is_linear=False)] if sizes.reads_whole else []
        maps = Weight((1 + self.num_offsets) * sizes.width * sizes.chunk_width, is_linear=False)
        return [Weight(sizes.chunk_width, is_linear=False), *start, maps]

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(unit=2.0 * sizes.width * sizes.chunk_width)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(chunk=float(2 * sizes.chunk_width * dtype_bytes))


class PrefixUnpoolConfig(UnpoolConfig):
    """A chunk's first units become the vectors of the chunk that its units may see, which is the one before where
    chunks are read whole (HAT, Learn Your Tokens); before the first one, learned vectors."""

    needs_position: ClassVar[bool] = True
    replaces_separators: ClassVar[bool] = True
    takes_positions: ClassVar[bool] = True

    type: Literal["prefix"] = "prefix"

    def weights(self, sizes: PartSizes) -> list[Weight]:
        start = [Weight(sizes.positions * sizes.width, is_linear=False)] if sizes.reads_whole else []
        return [*start, *([Weight(sizes.chunk_width * sizes.width)] if sizes.chunk_width != sizes.width else [])]

    def flops(self, sizes: PartSizes) -> Cost:
        differ = sizes.chunk_width != sizes.width
        return Cost(chunk=2.0 * sizes.positions * sizes.chunk_width * sizes.width if differ else 0.0)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        differ = sizes.chunk_width != sizes.width
        # The projection's input, and two indices of 8 bytes for each vector.
        return Cost(chunk=sizes.positions * (16.0 + (sizes.chunk_width * dtype_bytes if differ else 0)))


class SlotsConfig(UnpoolConfig):
    """Every unit of a chunk but the last is given a slot of its own, which is projected from the chunk that it may see
    (MEGABYTE: the one before); before the first one, learned slots."""

    needs_equal_chunks: ClassVar[bool] = True
    needs_position: ClassVar[bool] = True

    type: Literal["slots"] = "slots"

    def num_slots(self, sizes: PartSizes) -> int:
        """Units of a chunk but one, separators included; at least 1."""
        return max(1, int(sizes.units_per_chunk) - 1)

    def weights(self, sizes: PartSizes) -> list[Weight]:
        slots = self.num_slots(sizes) * sizes.width
        start = [Weight(slots, is_linear=False)] if sizes.reads_whole else []
        return [*start, Weight(slots * sizes.chunk_width)]

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(chunk=2.0 * self.num_slots(sizes) * sizes.width * sizes.chunk_width)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(unit=8.0, chunk=1.0 * sizes.chunk_width * dtype_bytes)
