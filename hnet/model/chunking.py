"""From boundaries to chunks: which units they hold, and which chunk a unit may use."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.packed import Packed
from hnet.model.residual import Skip
from hnet.model.sharding import Deal, Shard
from hnet_kernels.packed import segment_ids


@dataclass(frozen=True, slots=True)
class ChunkMap:
    """M chunks of T units in B documents.

    With a `deal`, the M chunks are those that this process's units need, and others may work on them.
    """

    index: Tensor
    """(T,) int64: the chunk of every unit."""
    offsets: Tensor
    """(M + 1,) int32: where each chunk begins."""
    cu_seqlens: Tensor
    """(B + 1,) int32: documents over chunks; with a deal, those of this process's share of the chunks."""
    visible: Tensor
    """(T,) int64: the latest chunk of its document whose vector a unit may use, -1 where there is none yet."""
    deal: Deal | None = None
    before: tuple[Tensor, Tensor] | None = None
    """Units and chunks (B,) int64 that went before these in each document; None: none did."""

    @property
    def num_chunks(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def sees_own(self) -> bool:
        """Every unit may use its own chunk."""
        return self.visible is self.index


def chunked(x: Packed, boundaries: Boundaries, skip: Skip) -> tuple[Tensor, ChunkMap, Tensor]:
    """First unit (M, D) of every chunk, which units they hold, and the path around them (T, D).

    `visible` is the own chunk, as for pools that read its first unit alone.
    """
    if x.shard is not None:
        return _dealt(x, boundaries, skip, x.shard)
    chunks, around = skip.with_chunks(x, boundaries)
    index = chunks.chunk_index
    return chunks.values, ChunkMap(index, chunks.chunk_offsets, chunks.cu_seqlens, index), around


def visible_when_whole(x: Packed, boundaries: Boundaries, chunk_map: ChunkMap, *, decoder_is_reset: bool) -> Tensor:
    """(T,) int64 for pools that read whole chunks: the latest chunk of the document that is known to be whole.

    A decoder that begins anew in each chunk keeps the chunk before its own throughout.
    """
    document = segment_ids(x.cu_seqlens, x.values.shape[0])
    first = chunk_map.cu_seqlens[:-1].long()[document]
    if decoder_is_reset:
        previous = chunk_map.index - 1
        return previous.where(previous >= first, -1)
    count = num_whole(x, boundaries, document)
    return (first + count - 1).where(count > 0, -1)


def num_whole(x: Packed, boundaries: Boundaries, document: Tensor) -> Tensor:
    """(T,) int64: chunks of the unit's `document` (T,) that are known to be whole once the unit is read."""
    closes = boundaries.closes
    if closes is None:
        closes = boundaries.mask.index_fill(0, x.cu_seqlens[:-1].long(), False)
    count = closes.cumsum(0)
    before = (count - closes.long())[x.cu_seqlens[:-1].long()]
    return count - before[document]


def scoped(x: Packed, offsets: Tensor, *, keep_last: bool) -> Packed:
    """The same units with every chunk as a document of its own.

    `keep_last`: of each document the state after its last chunk goes to the document's row of a cache.
    """
    rows = None
    if keep_last:
        last = torch.searchsorted(offsets, x.cu_seqlens[1:].contiguous()) - 1
        rows = last.new_full((offsets.shape[0] - 1,), -1).index_copy(0, last, x.cache_rows())
    return Packed(x.values, offsets, x.max_seqlen, rows=rows)


def offsets_of(boundaries: Boundaries) -> Tensor:
    """(M + 1,) int32: first unit of every chunk, and T."""
    mask = boundaries.mask
    end = torch.full((1,), mask.shape[0], dtype=torch.int32, device=mask.device)
    return torch.cat([mask.nonzero().squeeze(1).int(), end])


def leading_units(offsets: Tensor, count: int, num_units: int, skip: int = 0) -> Tensor:
    """(M, count) int64: units `skip` to `skip + count - 1` of every chunk, and `num_units`, that of all of them, where
    a chunk is shorter."""
    places = offsets[:-1, None].long() + skip + torch.arange(count, device=offsets.device)
    return places.where(places < offsets[1:, None], num_units)


def read_leading(values: Tensor, offsets: Tensor, count: int, skip: int = 0) -> Tensor:
    """Of units (T, D) those of `leading_units`: (M, count, D), zeros where a chunk is shorter."""
    places = leading_units(offsets, count, len(values), skip)
    return F.pad(values, (0, 0, 0, 1)).index_select(0, places.flatten()).view(*places.shape, -1)


def _dealt(x: Packed, boundaries: Boundaries, skip: Skip, shard: Shard) -> tuple[Tensor, ChunkMap, Tensor]:
    """The same over processes: chunks are dealt out evenly, so that each has as much to do in the stage inside."""
    mask, num_units = boundaries.mask, x.values.shape[0]
    deal = shard.deal(mask)
    starts = mask.nonzero().squeeze(1)
    values = deal.spread(x.values.index_select(0, starts))
    num_earlier = deal.num_needed - deal.num_made
    ends = (starts.new_zeros(num_earlier), starts, starts.new_full((1,), num_units))
    index = mask.cumsum(0) - 1 + num_earlier
    chunk_map = ChunkMap(index, torch.cat(ends).int(), deal.shard.cu_seqlens(mask.device), index, deal)
    return values, chunk_map, skip.around(x.values)
