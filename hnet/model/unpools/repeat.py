"""Unpooling by repetition: every unit is given the latest chunk that it may see."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import RepeatConfig
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32
from hnet.model.unpools.lagged import Latest
from hnet.model.unpools.narrow import narrowing
from hnet_kernels import upsample


class RepeatUnpool(nn.Module):
    """Without H-Net's average over chunks, but with its straight-through confidence, which multiplies by exactly 1
    forwards and lets learned boundaries have a gradient (arXiv 2507.07955, equations 7 to 9)."""

    def __init__(self, sizes: PartSizes, config: RepeatConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.narrow = narrowing(sizes, config, device=device)
        self.seen = Latest(sizes.width, sizes.reads_whole, device=device)

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
        table, row = self.seen(self.narrow(chunks.values), chunks, chunk_map, cache)
        offsets = chunk_map.offsets if chunk_map.sees_own else None
        start = upsample(table[:, 0], row, boundaries.confidence, around, chunk_offsets=offsets, out_dtype=dtype)
        return start, None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunks (R, 1, D') of `rows`."""
        self.seen.keep(self.narrow(chunks), cache, rows)

    def step(self, around: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, None]:
        """The path around (R, D) of one unit each -> (R, D) in float32 or better."""
        return at_least_float32(self.seen.latest(cache, rows, around.dtype)[:, 0]) + around, None
