"""`PackContext`: what every layer of a stack shares about the pack, computed once."""

from functools import cached_property

from torch import Tensor

from hnet.model.blocks.rotary import rotary_tables
from hnet.model.packed import Packed, positions
from hnet_kernels.packed import segment_ids


class PackContext:
    """Layout of one pack, and the dtype in which its layers are given their normalised inputs."""

    def __init__(self, pack: Packed, *, causal: bool = True) -> None:
        self._pack, self.causal = pack, causal
        self.cu_seqlens = pack.cu_seqlens
        self.total = pack.values.shape[0]
        self.max_seqlen = pack.max_seqlen
        self.dtype = pack.values.dtype
        self.shard = pack.shard
        self._tables: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64, from 0 in each document."""
        local = positions(self.cu_seqlens, self.total)
        if self.shard is not None:
            local[: self.shard.num_continued] += self.shard.num_before
        return local

    @cached_property
    def sequence_index(self) -> Tensor:
        """(T,) int64: the document that each unit belongs to."""
        return segment_ids(self.cu_seqlens, self.total)

    @cached_property
    def kept(self) -> tuple[Tensor, Tensor]:
        """Documents whose state a cache keeps, and their rows, both (K,) int64."""
        return self._pack.kept()

    @cached_property
    def kept_units(self) -> tuple[Tensor, Tensor]:
        """Units of these documents, and their rows, both (N,) int64."""
        rows = self._pack.cache_rows()[self.sequence_index]
        units = (rows >= 0).nonzero().squeeze(1)
        return units, rows[units]

    def rotary(self, rotary_dim: int, base: float) -> tuple[Tensor, Tensor] | None:
        """cos and sin tables of the pack, or None where nothing is rotated."""
        if rotary_dim == 0:
            return None
        if (rotary_dim, base) not in self._tables:
            self._tables[rotary_dim, base] = rotary_tables(self.positions, rotary_dim, base)
        return self._tables[rotary_dim, base]
