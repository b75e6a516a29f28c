"""H-Net's learned boundaries (arXiv 2507.07955, section 2.2.1, eq. 4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.boundaries.capacity import within_capacity
from hnet.model.cache import StateCache
from hnet.model.config import RouterConfig
from hnet.model.config.part import PartSizes
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32
from hnet.model.sharding import Shard, first_units
from hnet_kernels import Routing, route


class Router(nn.Module):
    """A unit opens a chunk where its key turns away from the query of the unit before it.

    p_t = (1 - cos(q_{t-1}, k_t)) / 2, boundary where p_t > 1/2; the first unit of a document always is one.
    The released checkpoints take the query from the previous unit; the paper writes the roles the other way round.
    """

    forced_ratio: float | None = None
    """For benchmarks only: do not decide, open a chunk at one unit in this many, in a fixed pseudo-random pattern."""

    def __init__(self, sizes: PartSizes, config: RouterConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config, dim = config, sizes.width
        self.q_proj = nn.Linear(dim, dim, bias=False, device=device)
        self.k_proj = nn.Linear(dim, dim, bias=False, device=device)

    def forward(self, x: Packed, cache: StateCache | None = None) -> Boundaries:
        """(T, D) -> probabilities (T,) float32 and mask (T,) bool."""
        cu_seqlens, shard = x.cu_seqlens, x.shard
        query, key = self.q_proj(x.values), self.k_proj(x.values)
        routing = route(query, key, cu_seqlens) if shard is None else _route_piece(query, key, cu_seqlens, shard)
        if self.forced_ratio is not None:
            boundaries = Boundaries.decided(routing.prob, _forced(routing.mask, cu_seqlens, self.forced_ratio, shard))
        else:
            boundaries = Boundaries(*routing, torch.zeros_like(routing.num_boundaries), at_least_half=True)
        # Generation must not depend on what else is in the pack, so a cache lifts the bound.
        if self.config.max_chunk_fraction is not None and cache is None:
            fraction, fill = self.config.max_chunk_fraction, self.config.fill_chunks
            boundaries = within_capacity(boundaries, cu_seqlens, fraction, fill=fill, shard=shard)
        if cache is not None:
            kept, rows = x.kept()
            cache.write("last", x.values[cu_seqlens[1:].long()[kept] - 1], rows)
        return boundaries

    def step(
        self, x: Tensor, cache: StateCache, rows: Tensor, is_first: Tensor, marks: Tensor | None = None
    ) -> Boundaries:
        """One unit (R, D) of `rows`, the first of its document where `is_first` (R,) -> probabilities and mask (R,)."""
        last = cache.read("last", rows, torch.zeros_like(x))
        cache.write("last", x, rows)
        query, key = at_least_float32(self.q_proj(last)), at_least_float32(self.k_proj(x))
        prob = ((1 - F.cosine_similarity(query, key, dim=-1, eps=1e-12)) / 2).clamp(0, 1).masked_fill(is_first, 1.0)
        return Boundaries.decided(prob, prob > 0.5)


def _route_piece(query: Tensor, key: Tensor, cu_seqlens: Tensor, shard: Shard) -> Routing:
    """`route` with the query of the unit before this piece; sums are of the piece alone."""
    query, cu_seqlens, halo = shard.with_halo(query, cu_seqlens, 1)
    routing = route(query, F.pad(key, (0, 0, halo, 0)), cu_seqlens)
    prob, mask, confidence = (part[halo:] for part in routing[:3])
    return Routing(prob, mask, confidence, prob.sum(), mask.sum())


def _forced(mask: Tensor, cu_seqlens: Tensor, ratio: float, shard: Shard | None) -> Tensor:
    """The pattern is that of the whole pack, whoever holds it."""
    start, total = (0, mask.numel()) if shard is None else (shard.start, shard.total)
    generator = torch.Generator().manual_seed(total)
    forced = (torch.rand(total, generator=generator)[start : start + mask.numel()] * ratio < 1).to(mask.device)
    return forced.index_fill_(0, first_units(cu_seqlens, shard), True)
