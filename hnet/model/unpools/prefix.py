"""Unpooling into a chunk's first units (HAT, arXiv 2501.10322, section 2; Learn Your Tokens, arXiv 2310.11628)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap, leading_units
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import PrefixUnpoolConfig
from hnet.model.packed import Packed
from hnet.model.unpools.lagged import Latest


class PrefixUnpool(nn.Module):
    """The p vectors of the chunk that they may see become a chunk's first p units; all other units stay as they are.

    `project` is there where the widths differ. Before the first chunk stand learned vectors, as large as embeddings.
    """

    def __init__(
        self, sizes: PartSizes, config: PrefixUnpoolConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        width, in_width, self.num_positions = sizes.width, sizes.chunk_width, sizes.positions
        self.seen = Latest(width, sizes.reads_whole, positions=sizes.positions, start_std=1.0, device=device)
        self.project = nn.Linear(in_width, width, bias=False, device=device) if in_width != width else nn.Identity()

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        around: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, None]:
        """Chunks (M * p, in D) and units (T, D) -> units (T, D) in `dtype`."""
        table, row = self.seen(self.project(chunks.values).to(dtype), chunks, chunk_map, cache)
        num_units = len(around)
        places = leading_units(chunk_map.offsets, self.num_positions, num_units)
        rows = row[places.clamp(max=num_units - 1)] * self.num_positions
        rows = rows + torch.arange(self.num_positions, device=rows.device)
        taken = table.flatten(0, 1).index_select(0, rows.flatten())
        # A chunk with fewer units writes to the row after the last one, which is cut off.
        padded = F.pad(around.to(dtype), (0, 0, 0, 1))
        return padded.index_copy(0, places.flatten(), taken)[:-1], None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunks (R, p, in D) of `rows`."""
        self.seen.keep(self.project(chunks), cache, rows)

    def step(self, around: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, None]:
        """One unit (R, D) of each of `rows`, at `position` (R,) in its chunk -> (R, D)."""
        last = self.num_positions - 1
        vectors = self.seen.latest(cache, rows, around.dtype)
        taken = vectors[torch.arange(len(rows), device=rows.device), position.clamp(max=last)]
        return taken.to(around.dtype).where((position <= last)[:, None], around), None
