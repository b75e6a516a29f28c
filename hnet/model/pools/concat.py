"""Pooling by concatenation (MEGABYTE, arXiv 2305.07185, section 2.1)."""

import torch
from torch import Tensor, nn

from hnet.model.chunking import ChunkMap, read_leading
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import ConcatConfig
from hnet.model.packed import Packed


class ConcatPool(nn.Module):
    """A linear layer of a chunk's units side by side, without its separators."""

    def __init__(self, sizes: PartSizes, config: ConcatConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.num_units, self.num_separators = config.num_units(sizes), sizes.num_separators
        self.project = nn.Linear(self.num_units * sizes.width, sizes.inner_width, bias=False, device=device)

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """Units (T, D) -> (M, inner D); zeros stand for units that a document's last chunk does not have."""
        units = read_leading(x.values, chunk_map.offsets, self.num_units, self.num_separators)
        pooled: Tensor = self.project(units.flatten(1))
        return pooled
