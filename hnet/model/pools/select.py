"""Pooling by selection (H-Net): a chunk is represented by the state of its first unit."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.config import SelectConfig
from hnet.model.packed import ChunkMap, Packed
from hnet.model.residual import Residual


class SelectPool(nn.Module):
    def __init__(self, dim: int, config: SelectConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, boundaries: Boundaries, residual: Residual) -> tuple[Packed, ChunkMap, Tensor]:
        """T units -> M chunks, which units they hold, and the residual path (T, D)."""
        chunks, skip = residual.with_chunks(x, boundaries)
        pooled = Packed(chunks.values, chunks.cu_seqlens, x.max_seqlen)
        return pooled, ChunkMap(chunks.chunk_index, chunks.chunk_offsets), skip

    def step(self, x: Tensor) -> Tensor:
        """States (R, D) of units that open a chunk -> chunk vectors (R, D)."""
        return x
