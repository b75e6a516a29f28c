"""The mean or the elementwise maximum of a chunk's units."""

import torch
from torch import Tensor, nn

from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import MaxConfig, MeanConfig
from hnet.model.packed import Packed
from hnet_kernels import segment_reduce


class ReducePool(nn.Module):
    def __init__(
        self, sizes: PartSizes, config: MeanConfig | MaxConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self._reduction = config.type
        wider = sizes.chunk_width != sizes.width
        self.widen = nn.Linear(sizes.width, sizes.chunk_width, bias=False, device=device) if wider else None

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """Units (T, D) -> chunk vectors (M, D'), projected if D' is not D."""
        reduced = segment_reduce(x.values, chunk_map.offsets, self._reduction)
        return reduced if self.widen is None else self.widen(reduced)
