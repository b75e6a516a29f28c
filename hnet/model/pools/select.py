"""Pooling by selection (H-Net): a chunk is represented by the state of its first unit."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.config import SelectConfig
from hnet.model.packed import Packed
from hnet_kernels import chunk


class SelectPool(nn.Module):
    def __init__(self, dim: int, config: SelectConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, boundaries: Boundaries) -> tuple[Packed, Tensor]:
        """T units -> M chunks, and the chunk index (T,) int64 of every unit."""
        values, cu_seqlens, chunk_index = chunk(x.values, boundaries.mask, x.cu_seqlens)
        return Packed(values, cu_seqlens), chunk_index

    def step(self, x: Tensor) -> Tensor:
        """States (R, D) of units that open a chunk -> chunk vectors (R, D)."""
        return x
