"""SpaceByte's unpooling (Slagle 2024, arXiv 2404.14408, section 3): a chunk is added to one unit alone."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import ScatterConfig
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32
from hnet.model.unpools.lagged import visible_runs
from hnet.model.unpools.narrow import narrowing


class ScatterUnpool(nn.Module):
    """The first unit that may see a chunk is given it; later ones read it in the decoder's layers.

    That unit's straight-through confidence multiplies by exactly 1 forwards, as in H-Net, for learned boundaries.
    """

    def __init__(self, sizes: PartSizes, config: ScatterConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.narrow = narrowing(sizes, config, device=device)

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        around: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Injection | None]:
        """Chunks (M, D') and the path around them (T, D) -> (T, D) in `dtype`, summed in float32."""
        firsts = visible_runs(chunk_map)[:-1].long()
        if not chunk_map.sees_own:
            firsts = firsts[chunk_map.visible[firsts] >= 0]
        sums = at_least_float32(around)
        given = self.narrow(chunks.values).to(sums.dtype).index_select(0, chunk_map.visible[firsts])
        through = boundaries.straight_through[firsts].to(sums.dtype)
        return sums.index_add(0, firsts, given * through).to(dtype), None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """New chunks (R, 1, D') of `rows`, for their next unit."""
        cache.write("new", at_least_float32(self.narrow(chunks[:, 0])), rows)

    def step(self, around: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, None]:
        """The path around (R, D) of one unit each -> (R, D) in float32 or better."""
        sums = at_least_float32(around)
        given = cache.read("new", rows, torch.zeros_like(sums))
        cache.reset(rows)
        return sums + given, None
