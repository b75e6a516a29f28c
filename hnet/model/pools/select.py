"""Pooling by selection (H-Net): a chunk is represented by the state of its first unit."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import SelectConfig
from hnet.model.packed import Packed


class SelectPool(nn.Module):
    def __init__(self, sizes: PartSizes, config: SelectConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        missing = sizes.chunk_width - sizes.width
        self.widen = (
            nn.Linear(sizes.width, sizes.chunk_width, bias=False, device=device)
            if missing and config.widening == "linear"
            else None
        )
        self._num_zeros = missing if self.widen is None else 0

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """Units (T, D) and the first of each chunk (M, D) -> chunk vectors (M, D) or, widened, (M, D')."""
        if self.widen is not None:
            widened: Tensor = self.widen(firsts)
            return widened
        return F.pad(firsts, (self._num_zeros, 0)) if self._num_zeros else firsts
