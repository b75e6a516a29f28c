"""Pooling by selection (H-Net): a chunk is represented by the state of its first unit."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.config import SelectConfig
from hnet.model.packed import ChunkMap, Packed
from hnet.model.residual import Residual
from hnet.model.sharding import Shard


class SelectPool(nn.Module):
    def __init__(self, dim: int, config: SelectConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, boundaries: Boundaries, residual: Residual) -> tuple[Packed, ChunkMap, Tensor]:
        """T units -> M chunks, which units they hold, and the residual path (T, D)."""
        if x.shard is not None:
            return _dealt(x, boundaries, residual, x.shard)
        chunks, skip = residual.with_chunks(x, boundaries)
        pooled = Packed(chunks.values, chunks.cu_seqlens, x.max_seqlen)
        return pooled, ChunkMap(chunks.chunk_index, chunks.chunk_offsets), skip

    def step(self, x: Tensor) -> Tensor:
        """States (R, D) of units that open a chunk -> chunk vectors (R, D)."""
        return x


def _dealt(x: Packed, boundaries: Boundaries, residual: Residual, shard: Shard) -> tuple[Packed, ChunkMap, Tensor]:
    """The same over processes: chunks are dealt out evenly, so that each has as much to do in the stage inside."""
    mask, num_units = boundaries.mask, x.values.shape[0]
    deal = shard.deal(mask)
    starts = mask.nonzero().squeeze(1)
    values = deal.spread(x.values.index_select(0, starts))
    pooled = Packed(values, deal.shard.cu_seqlens(mask.device), deal.shard.max_seqlen, deal.shard)
    num_earlier = deal.num_needed - deal.num_made
    ends = (starts.new_zeros(num_earlier), starts, starts.new_full((1,), num_units))
    chunk_map = ChunkMap(mask.cumsum(0) - 1 + num_earlier, torch.cat(ends).int(), deal)
    skip = residual(x.values)
    assert isinstance(skip, Tensor)
    return pooled, chunk_map, skip
