"""Which chunk each unit sees, where pools read whole chunks and their vectors come late."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.packed import Packed

if TYPE_CHECKING:
    from hnet.model.initialization import Filler


class Latest(nn.Module):
    """The latest chunk that a unit may see. With `has_start` a learned vector stands for it before the first one; that
    is for pools that read whole chunks, since with others every unit sees its own chunk."""

    def __init__(
        self,
        width: int,
        has_start: bool,
        *,
        positions: int = 1,
        start_std: float = 0.0,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.empty(positions, width, device=device)) if has_start else None
        self._positions, self._start_std = positions, start_std

    def initialize(self, fill: "Filler") -> None:
        """What units see before the first chunk: N(0, start_std)."""
        if self.start is not None:
            fill(self.start, nn.init.normal_, std=self._start_std)

    def forward(
        self, values: Tensor, chunks: Packed, chunk_map: ChunkMap, cache: StateCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the chunks gave, (M * positions, W), packed as `chunks` -> a table (N, positions, W), and the row of it
        that every unit sees (T,) int64."""
        if chunk_map.deal is not None:
            values = chunk_map.deal.collect(values)
        table, row = values.unflatten(0, (-1, self._positions)), chunk_map.visible
        if cache is not None:
            kept, rows = chunks.kept()
            last = row[chunk_map.offsets[chunk_map.cu_seqlens[1:].long()[kept]].long() - 1]
            self.keep(table[last[last >= 0]], cache, rows[last >= 0])
        if self.start is not None:
            table, row = torch.cat([self.start.to(table.dtype)[None], table]), row + 1
        return table, row

    def keep(self, values: Tensor, cache: StateCache, rows: Tensor) -> None:
        """From here on units of `rows` (R,) see `values` (R, positions, W)."""
        if rows.numel():
            cache.write("latest", values, rows)

    def latest(self, cache: StateCache, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """What the next unit of each of `rows` (R,) sees: (R, positions, W)."""
        start = None if self.start is None else self.start.to(dtype).expand(len(rows), -1, -1)
        return cache.read("latest", rows, start)


def visible_runs(chunk_map: ChunkMap) -> Tensor:
    """(S + 1,) int32: where runs of units begin that see the same chunk, or none yet, and T. Without a deal."""
    if chunk_map.sees_own:
        return chunk_map.offsets
    visible = chunk_map.visible
    begins = F.pad(visible[1:] != visible[:-1], (1, 0), value=True)
    begins[chunk_map.offsets[chunk_map.cu_seqlens[:-1].long()].long()] = True
    return F.pad(begins.nonzero().squeeze(1), (0, 1), value=len(visible)).int()
