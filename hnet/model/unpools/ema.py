"""H-Net's smoothing and upsampling (arXiv 2507.07955, section 2.2.2, eqs. 5 to 9)."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config import EMAConfig
from hnet.model.config.part import PartSizes
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32
from hnet.model.sharding import Deal
from hnet_kernels import ema, upsample
from hnet_kernels.ema.reference import MIN_PROB


class EMAUnpool(nn.Module):
    """Chunk states are averaged exponentially with weight P, then repeated over the units of their chunk.

    The straight-through confidence multiplies by exactly 1 forwards and passes its gradient to the router.
    """

    def __init__(self, sizes: PartSizes, config: EMAConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        residual: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Injection | None]:
        """Chunks (M, D) and residual (T, D) -> their sum (T, D) in `dtype`, taken in float32."""
        prob = boundaries.prob.index_select(0, chunk_map.offsets[:-1])
        if chunk_map.deal is None:
            smoothed = ema(chunks.values, prob, chunks.cu_seqlens, at_least_half=boundaries.at_least_half)
        else:
            smoothed = _smoothed_over_peers(chunks, prob, chunk_map.deal, boundaries.at_least_half)
        if cache is not None:
            kept, rows = chunks.kept()
            state = smoothed[chunks.cu_seqlens[1:].long()[kept] - 1]
            cache.write("state", at_least_float32(state), rows)
        start = upsample(
            smoothed,
            chunk_map.index,
            boundaries.confidence,
            residual,
            chunk_offsets=chunk_map.offsets,
            out_dtype=dtype,
        )
        return start, None

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunk states (R, 1, D) of `rows`, whose boundaries have probability `prob` (R,)."""
        new = at_least_float32(chunks[:, 0])
        # Clamped in the precision of the states, as over a whole pack.
        weight = prob.to(new.dtype).clamp(MIN_PROB, 1 - MIN_PROB)[:, None]
        cache.write("state", weight * new + (1 - weight) * cache.read("state", rows, torch.zeros_like(new)), rows)

    def step(
        self, residual: Tensor, position: Tensor, cache: StateCache, rows: Tensor
    ) -> tuple[Tensor, Injection | None]:
        """Residual (R, D) of one unit each -> (R, D) in float32 or better."""
        return at_least_float32(cache.read("state", rows)) + residual, None


def _smoothed_over_peers(chunks: Packed, prob: Tensor, deal: Deal, at_least_half: bool) -> Tensor:
    """Chunks of this process's even piece, `prob` (num_needed,) -> the smoothed chunks (num_needed, D) of its units.

    The average is linear in its state: what enters from earlier processes is added where documents go on.
    """
    shard = deal.shard
    prob = deal.spread(prob[deal.num_needed - deal.num_made :])
    values = at_least_float32(chunks.values)
    smoothed = ema(values, prob, chunks.cu_seqlens, at_least_half=at_least_half)
    kept = (1 - prob.to(values.dtype).clamp(MIN_PROB, 1 - MIN_PROB)).log()
    end = shard.num_continued
    entering = shard.carry(smoothed[-1:], kept[shard.last_fragment :].sum(0, keepdim=True))
    smoothed = torch.cat([smoothed[:end] + kept[:end].cumsum(0).exp()[:, None] * entering, smoothed[end:]])
    return deal.collect(smoothed)
