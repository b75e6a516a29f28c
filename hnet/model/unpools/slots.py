"""Unpooling into slots (MEGABYTE, arXiv 2305.07185, section 2.2): a chunk gives a vector to each unit of the next."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import SlotsConfig
from hnet.model.packed import Packed
from hnet.model.unpools.lagged import Latest


class SlotsUnpool(nn.Module):
    """Unit q of a chunk gets slot q of the chunk that it may see added; a chunk's last unit, which predicts nothing of
    its own chunk, gets none."""

    def __init__(self, sizes: PartSizes, config: SlotsConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.num_slots = config.num_slots(sizes)
        self.seen = Latest(sizes.width, sizes.reads_whole, positions=self.num_slots, start_std=0.02, device=device)
        self.project = nn.Linear(sizes.chunk_width, self.num_slots * sizes.width, bias=False, device=device)

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        around: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, None]:
        """Chunks (M, in D) and units (T, D) -> units (T, D) in `dtype`."""
        table, row = self.seen(self._slots(chunks.values).to(dtype).flatten(0, 1), chunks, chunk_map, cache)
        slots = torch.cat([table.flatten(0, 1), table.new_zeros(1, table.shape[-1])])
        position = torch.arange(len(around), device=around.device) - chunk_map.offsets.long()[chunk_map.index]
        place = (row * self.num_slots + position).where(position < self.num_slots, len(slots) - 1)
        return around.to(dtype) + slots.index_select(0, place), None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunks (R, 1, in D) of `rows`."""
        self.seen.keep(self._slots(chunks[:, 0]), cache, rows)

    def step(self, around: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, None]:
        """One unit (R, D) of each of `rows`, at `position` (R,) in its chunk -> (R, D)."""
        last = self.num_slots - 1
        slots = self.seen.latest(cache, rows, around.dtype)
        given = slots[torch.arange(len(rows), device=rows.device), position.clamp(max=last)]
        return around + given.to(around.dtype).masked_fill((position > last)[:, None], 0.0), None

    def _slots(self, vectors: Tensor) -> Tensor:
        """(S, in D) -> (S, slots, D)."""
        slots: Tensor = self.project(vectors)
        return slots.unflatten(-1, (self.num_slots, -1))
