"""Pooling by cross-attention: k queries of a chunk look at its units (BLT, arXiv 2412.09871, section 3.2.2)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hnet.model.blocks.norm import RMSNorm
from hnet.model.blocks.rotary import rotary_tables
from hnet.model.chunking import ChunkMap
from hnet.model.config.cross_attention import CrossAttentionPoolConfig
from hnet.model.config.part import PartSizes
from hnet.model.packed import Packed, positions
from hnet_kernels import pool_attention, rotate, segment_reduce
from hnet_kernels.packed import segment_ids

if TYPE_CHECKING:
    from hnet.model.initialization import Filler


class CrossAttentionPool(nn.Module):
    """residual * query + out_proj(attention(q_proj(norm(query)), kv_proj(norm(units)))), the k results side by side.

    `kv_proj` projects to k | v. A chunk's queries are `expand` of the maximum or mean of its units, or `queries`.
    """

    def __init__(
        self, sizes: PartSizes, config: CrossAttentionPoolConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width, inner_width = sizes.width, sizes.inner_width
        query_width = config.query_width(width, inner_width)
        joined = config.num_queries * query_width
        if config.query == "learned":
            self.queries = nn.Parameter(torch.empty(config.num_queries, query_width, device=device))
        else:
            self.expand = nn.Linear(width, joined, bias=False, device=device)
        if config.norms:
            self.query_norm = RMSNorm(query_width, sizes.norm_eps, device=device)
            self.unit_norm = RMSNorm(width, sizes.norm_eps, device=device)
        self.q_proj = nn.Linear(query_width, query_width, bias=False, device=device)
        self.kv_proj = nn.Linear(width, 2 * query_width, bias=False, device=device)
        self.out_proj = nn.Linear(query_width, query_width, bias=False, device=device)
        if joined != inner_width:
            self.project = nn.Linear(joined, inner_width, bias=False, device=device)

    def initialize(self, fill: "Filler") -> None:
        """The learned queries: N(0, 0.02)."""
        if self.config.query == "learned":
            fill(self.queries, nn.init.normal_, std=0.02)

    def forward(self, x: Packed, firsts: Tensor, chunk_map: ChunkMap) -> Tensor:
        """T units (T, D) -> M chunks (M, inner D)."""
        config, heads = self.config, self.config.num_heads
        units, num_chunks = x.values, chunk_map.num_chunks
        if config.query == "learned":
            # One row for all chunks: what is the same for each is projected once.
            queries = self.queries.to(units.dtype)[None]
        else:
            reduced = segment_reduce(units, chunk_map.offsets, config.query)
            queries = self.expand(reduced).view(num_chunks, config.num_queries, -1)
        q = self.q_proj(self.query_norm(queries) if config.norms else queries)
        q = q.unflatten(-1, (heads, -1)).expand(num_chunks, -1, -1, -1)
        k, v = self.kv_proj(self.unit_norm(units) if config.norms else units).chunk(2, -1)
        k, v = (part.unflatten(-1, (heads, -1)) for part in (k, v))
        if config.rotary_dim:
            of_units, of_chunks = _places(x, chunk_map)
            q = self._rotated(q.flatten(1, 2), of_chunks).view(q.shape)
            k = self._rotated(k, of_units)
        out = self.out_proj(pool_attention(q, k, v, chunk_map.offsets).flatten(2))
        if config.residual:
            out = out + config.residual * queries
        joined = out.flatten(1)
        return self.project(joined) if hasattr(self, "project") else joined

    def _rotated(self, x: Tensor, places: Tensor) -> Tensor:
        return rotate(x, *rotary_tables(places, self.config.rotary_dim, self.config.rotary_base))


def _places(x: Packed, chunk_map: ChunkMap) -> tuple[Tensor, Tensor]:
    """Index in its document of every unit (T,) and chunk (M,)."""
    of_units = positions(x.cu_seqlens, x.values.shape[0])
    of_chunks = positions(chunk_map.cu_seqlens, chunk_map.num_chunks)
    if chunk_map.before is None:
        return of_units, of_chunks
    units, chunks = chunk_map.before
    document = segment_ids(chunk_map.cu_seqlens, chunk_map.num_chunks)
    return of_units + units[document][chunk_map.index], of_chunks + chunks[document]
