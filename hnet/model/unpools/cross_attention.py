"""Unpooling by cross-attention: units look at the k keys of a chunk (BLT, arXiv 2412.09871, section 3.3.1)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hnet.model.blocks.norm import RMSNorm
from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.cross_attention import CrossAttentionUnpoolConfig
from hnet.model.config.part import PartSizes
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.unpools.lagged import visible_runs
from hnet_kernels import unpool_attention

if TYPE_CHECKING:
    from hnet.model.initialization import Filler

Keys = tuple[Tensor, Tensor]
"""Keys and values, each (S, K, heads, head width)."""


class CrossAttentionUnpool(nn.Module):
    """The decoder starts from the skip connection; before its layers, units look at the latest chunk they may see."""

    def __init__(
        self, sizes: PartSizes, config: CrossAttentionUnpoolConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width, in_width = sizes.width, sizes.chunk_width
        self.key_width = config.key_width(width, in_width)
        self.start = nn.Parameter(torch.empty(sizes.positions, in_width, device=device))
        if config.project_keys:
            self.keys = nn.Linear(in_width, config.num_keys * width, bias=False, device=device)
        count = config.num_injections(sizes.num_layers)
        self.layers = nn.ModuleList(CrossAttention(sizes, config, device=device) for _ in range(count))

    def initialize(self, fill: "Filler") -> None:
        """What units see before the first whole chunk: 0."""
        fill(self.start, nn.init.zeros_)

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        skip: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Injection]:
        """Chunks (M * positions, in D) and skip (T, D) -> skip in `dtype`, and what acts before a decoder's layer."""
        seen, offsets = seen_by_runs(chunks.values.view(-1, *self.start.shape), self.start, chunk_map)
        keys = self._keys(seen.to(dtype))
        gate = boundaries.straight_through
        if cache is not None:
            kept, rows = chunks.kept()
            ends = chunk_map.offsets[chunk_map.cu_seqlens[1:].long()[kept]]
            self._keep(keys[torch.searchsorted(offsets, ends) - 1], cache, rows)

        def inject(layer: int, residual: Tensor) -> Tensor:
            if layer >= len(self.layers):
                return residual
            attention = self.layers[layer]
            updated: Tensor = attention(residual, keys, offsets, dtype, gate)
            return updated

        return skip.to(dtype), inject

    def step_chunk(self, chunks: Tensor, prob: Tensor, cache: StateCache, rows: Tensor) -> None:
        """Take up new chunks (R, positions, in D) of `rows`."""
        self._keep(self._keys(chunks), cache, rows)

    def step(self, skip: Tensor, position: Tensor, cache: StateCache, rows: Tensor) -> tuple[Tensor, Injection]:
        """One unit (R, D) of each of `rows`; see `forward`."""
        offsets = torch.arange(len(rows) + 1, dtype=torch.int32, device=skip.device)
        first = self._keys(self.start[None].to(skip.dtype))

        def inject(layer: int, residual: Tensor) -> Tensor:
            if layer >= len(self.layers):
                return residual
            attention = self.layers[layer]
            assert isinstance(attention, CrossAttention)
            k, v = (part.expand(len(rows), -1, -1, -1) for part in attention.project(first))
            keys = cache.read(f"keys.{layer}", rows, k), cache.read(f"values.{layer}", rows, v)
            return attention.attend(residual, keys, offsets, skip.dtype)

        return skip, inject

    def _keys(self, chunks: Tensor) -> Tensor:
        """(S, positions, in D) -> (S, K, key width), K = positions * num_keys."""
        keys = self.keys(chunks) if self.config.project_keys else chunks
        return keys.reshape(len(chunks), -1, self.key_width)

    def _keep(self, keys: Tensor, cache: StateCache, rows: Tensor) -> None:
        for index, attention in enumerate(self.layers):
            assert isinstance(attention, CrossAttention)
            for name, part in zip(("keys", "values"), attention.project(keys), strict=True):
                cache.write(f"{name}.{index}", part, rows)


class CrossAttention(nn.Module):
    """x <- residual * x + out_proj(attention(q_proj(norm(x)), kv_proj(norm(keys)))). `kv_proj` projects to k | v."""

    def __init__(
        self, sizes: PartSizes, config: CrossAttentionUnpoolConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width, key_width = sizes.width, config.key_width(sizes.width, sizes.chunk_width)
        if config.norms:
            self.unit_norm = RMSNorm(width, sizes.norm_eps, device=device)
            self.key_norm = RMSNorm(key_width, sizes.norm_eps, device=device)
        self.q_proj = nn.Linear(width, width, bias=False, device=device)
        self.kv_proj = nn.Linear(key_width, 2 * width, bias=False, device=device)
        self.out_proj = nn.Linear(width, width, bias=False, device=device)

    def forward(self, x: Tensor, keys: Tensor, offsets: Tensor, dtype: torch.dtype, gate: Tensor) -> Tensor:
        """Units (T, D) float32 and a factor (T, 1) of what each sees, keys (S, K, key width) of which row s is seen by
        units offsets[s] to offsets[s + 1] - 1 -> (T, D) float32. Products are in `dtype`."""
        return self.attend(x, self.project(keys), offsets, dtype, gate)

    def project(self, keys: Tensor) -> Keys:
        """(S, K, key width) -> keys and values."""
        k, v = self.kv_proj(self.key_norm(keys) if self.config.norms else keys).chunk(2, -1)
        return k.unflatten(-1, (self.config.num_heads, -1)), v.unflatten(-1, (self.config.num_heads, -1))

    def attend(self, x: Tensor, keys: Keys, offsets: Tensor, dtype: torch.dtype, gate: Tensor | float = 1.0) -> Tensor:
        """As `forward`, with projected keys and values."""
        q = self.q_proj((self.unit_norm(x) if self.config.norms else x).to(dtype))
        q = q.unflatten(-1, (self.config.num_heads, -1))
        out = self.out_proj(unpool_attention(q, *keys, offsets).flatten(1))
        return self.config.residual * x + gate * out


def seen_by_runs(chunks: Tensor, start: Tensor, chunk_map: ChunkMap) -> tuple[Tensor, Tensor]:
    """What each run of units sees that see the same: (S, ...), and where runs begin and end: (S + 1,) int32.

    `start` (...) stands for what a document's units see before the first of the chunks (M, ...).
    """
    offsets = visible_runs(chunk_map)
    row = chunk_map.visible[offsets[:-1].long()]
    known = (row >= 0).view(-1, *[1] * start.dim())
    return torch.where(known, chunks.index_select(0, row.clamp(min=0)), start.to(chunks.dtype)), offsets
