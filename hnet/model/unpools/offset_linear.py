"""AU-Net's unpooling (arXiv 2506.14761, section 2.2): a linear map for every distance from a chunk's first sight."""

import torch
from torch import Tensor, nn

from hnet.model.blocks.norm import RMSNorm
from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import OffsetLinearConfig
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32
from hnet.model.unpools.lagged import Latest, visible_runs
from hnet_kernels import offset_linear


class OffsetLinear(nn.Linear):
    """W and W_0 .. W_{K-1}, each (D, D'), one below the other."""

    def __init__(
        self, in_width: int, width: int, num_offsets: int, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__(in_width, (1 + num_offsets) * width, bias=False, device=device)
        self._shape = (1 + num_offsets, width, in_width)

    def forward(self, chunks: Tensor, offsets: Tensor, num_units: int | None = None) -> Tensor:  # type: ignore[override]
        """Chunks (S, D') that are seen by the units offsets[s] to offsets[s + 1] - 1, of T -> (T, D).

        Without a number of units: chunks (R, D') at the distances `offsets` (R,) int64 -> (R, D).
        """
        weight = self.weight.view(self._shape)
        maps = weight[0] + weight[1:]
        if num_units is not None:
            return offset_linear(chunks, maps, offsets, num_units=num_units, wrap=True)
        return torch.einsum("rd,rod->ro", chunks, maps[offsets % len(maps)].to(chunks.dtype))


class OffsetLinearUnpool(nn.Module):
    """u = W n + W_{o mod K} n of the chunk's n = RMSNorm(z), for the o-th unit that sees it; added to the units."""

    def __init__(
        self, sizes: PartSizes, config: OffsetLinearConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.norm = RMSNorm(sizes.chunk_width, sizes.norm_eps, device=device)
        self.seen = Latest(sizes.chunk_width, sizes.reads_whole, device=device)
        self.maps = OffsetLinear(sizes.chunk_width, sizes.width, config.num_offsets, device=device)

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        around: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Injection | None]:
        """Chunks (M, D') and the path around them (T, D) -> their sum (T, D) in `dtype`, taken in float32."""
        normed = self.norm(chunks.values).to(chunks.values.dtype)
        table, row = self.seen(normed, chunks, chunk_map, cache)
        runs = visible_runs(chunk_map)
        given = self.maps(table[row[runs[:-1].long()], 0], runs, len(around))
        if cache is not None:
            kept, rows = chunks.kept()
            ends = chunk_map.offsets[chunk_map.cu_seqlens[1:].long()[kept]]
            begins = runs[torch.searchsorted(runs, ends) - 1]
            cache.write("distance", (ends - begins).long(), rows)
        return (at_least_float32(around) + at_least_float32(given) * boundaries.straight_through).to(dtype), None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunks (R, 1, D') of `rows`."""
        self.seen.keep(self.norm(chunks).to(chunks.dtype), cache, rows)
        cache.write("distance", torch.zeros_like(rows), rows)

    def step(self, around: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, None]:
        """The path around (R, D) of one unit each -> (R, D) in float32 or better."""
        distance = cache.read("distance", rows, torch.zeros_like(rows))
        cache.write("distance", distance + 1, rows)
        given = self.maps(self.seen.latest(cache, rows, around.dtype)[:, 0], distance)
        return at_least_float32(around) + at_least_float32(given), None
