"""Pooling by a chunk's first units (HAT, arXiv 2501.10322, section 2; Learn Your Tokens, arXiv 2310.11628)."""

import torch
from torch import Tensor, nn

from hnet.model.chunking import ChunkMap, read_leading
from hnet.model.config.part import PartSizes
from hnet.model.config.pools import PrefixPoolConfig
from hnet.model.packed import Packed


class PrefixPool(nn.Module):
    """The states of the first p units are p units of the stage inside. `project` is there where the widths differ."""

    def __init__(self, sizes: PartSizes, config: PrefixPoolConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.num_units = config.num_units
        differ = sizes.inner_width != sizes.width
        self.project = nn.Linear(sizes.width, sizes.inner_width, bias=False, device=device) if differ else None

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """Units (T, D) -> (M * p, inner D); zeros stand for units that a chunk does not have."""
        leading = read_leading(x.values, chunk_map.offsets, self.num_units).flatten(0, 1)
        return leading if self.project is None else self.project(leading)
