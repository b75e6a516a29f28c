"""Pooling by selection (H-Net): a chunk is represented by the state of its first unit."""

import torch
from torch import Tensor, nn

from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import SelectConfig
from hnet.model.packed import Packed


class SelectPool(nn.Module):
    def __init__(self, sizes: PartSizes, config: SelectConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """Units (T, D) and the first of each chunk (M, D) -> chunk vectors (M, D)."""
        return firsts
