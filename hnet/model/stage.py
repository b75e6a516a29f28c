"""The one recursive stage: segment, encode, pool, main (perhaps another stage), unpool, decode."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hnet.model.boundaries import BOUNDARIES, Boundaries
from hnet.model.cache import StageCache, StateCache
from hnet.model.config import StageConfig
from hnet.model.packed import ChunkMap, Packed
from hnet.model.pools import POOLS
from hnet.model.residual import Residual
from hnet.model.stack import Stack
from hnet.model.unpools import UNPOOLS


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What one chunking stage decided about its T_s units."""

    boundaries: Boundaries
    cu_seqlens: Tensor
    """(B + 1,) int32, documents over this stage's units."""
    num_chunks: int
    """T_{s+1}; over processes, those that the stage inside works on in this one."""
    num_bytes: int
    """T_0, units of the outermost stage."""

    @property
    def boundary_prob(self) -> Tensor:
        """(T_s,) float32."""
        return self.boundaries.prob

    @property
    def boundary_mask(self) -> Tensor:
        """(T_s,) bool."""
        return self.boundaries.mask

    @property
    def bytes_per_chunk(self) -> float:
        """Outermost units per chunk of this stage."""
        return self.num_bytes / self.num_chunks if self.num_chunks else float("inf")


class Stage(nn.Module):
    """`stages[0]` and, inside it, the others. Works on `Packed` and returns the width that it was given.

    A wider stage than the one outside it appends the learned vector `width_pad` to every unit.
    """

    def __init__(
        self,
        stages: Sequence[StageConfig],
        outer_width: int,
        norm_eps: float,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        config = stages[0]
        self.config = config
        width = config.d_model
        self.width_pad = nn.Parameter(torch.empty(width - outer_width, device=device)) if width > outer_width else None
        if config.main is not None:
            self.main = Stack(config.main, config, norm_eps, device=device)
            return
        self.encoder = Stack(config.encoder or "", config, norm_eps, device=device)
        self.router = BOUNDARIES[type(config.boundary)](width, config.boundary, device=device)
        self.pool = POOLS[type(config.pool)](width, config.pool, device=device)
        self.residual = Residual(width, config.residual_precision, device=device)
        self.inner = Stage(stages[1:], width, norm_eps, device=device)
        self.unpool = UNPOOLS[type(config.unpool)](width, config.unpool, device=device)
        self.decoder = Stack(config.decoder or "", config, norm_eps, device=device)

    def forward(self, x: Packed, num_bytes: int, cache: StageCache | None = None) -> tuple[Tensor, list[StageOutput]]:
        """(T_s, outer width) -> (T_s, outer width), and the outputs of this stage and those inside it."""
        outer_width = x.values.shape[-1]
        values = self._widened(x.values)
        if self.config.is_innermost:
            values = self.main(replace(x, values=values), cache.main if cache else None)
            return values[:, :outer_width], []
        encoded = self.encoder(replace(x, values=values), cache.encoder if cache else None)
        boundaries = self.router(encoded, x.cu_seqlens, cache.boundary if cache else None, x.shard)
        chunks, chunk_map, residual = self.pool(replace(x, values=encoded), boundaries, self.residual)
        inner, outputs = self.inner(chunks, num_bytes, cache.inner if cache else None)
        restored = self.unpool(
            replace(chunks, values=inner),
            boundaries,
            chunk_map,
            residual,
            encoded.dtype,
            cache.unpool if cache else None,
        )
        decoded = self.decoder(replace(x, values=restored), cache.decoder if cache else None)
        output = _output(x, boundaries, chunk_map, num_bytes)
        return decoded[:, :outer_width], [output, *outputs]

    def step(self, x: Tensor, cache: StageCache, rows: Tensor) -> tuple[Tensor, list[tuple[Tensor, Boundaries]]]:
        """One unit (R, outer width) of each of `rows` -> (R, outer width), and per stage (rows, boundaries).

        Inner stages run only for the rows whose unit opens a chunk.
        """
        outer_width = x.shape[-1]
        values = self._widened(x)
        if self.config.is_innermost:
            return self.main.step(values, cache.main, rows)[:, :outer_width], []
        encoded = self.encoder.step(values, cache.encoder, rows)
        boundaries = self.router.step(encoded, cache.boundary, rows)
        opened = boundaries.mask.nonzero().squeeze(1)
        trace = [(rows, boundaries)]
        if opened.numel() and cache.inner is not None:
            inner, inner_trace = self.inner.step(self.pool.step(encoded[opened]), cache.inner, rows[opened])
            self.unpool.step_chunk(inner, boundaries.prob[opened], cache.unpool, rows[opened])
            trace += inner_trace
        restored = self.unpool.step(self.residual(encoded), cache.unpool, rows)
        return self.decoder.step(restored.to(encoded.dtype), cache.decoder, rows)[:, :outer_width], trace

    def new_cache(self, num_rows: int) -> StageCache:
        """Empty state for `num_rows` documents."""
        cache = StageCache(boundary=StateCache(num_rows), unpool=StateCache(num_rows))
        if self.config.is_innermost:
            cache.main = self.main.new_caches(num_rows)
        else:
            cache.encoder = self.encoder.new_caches(num_rows)
            cache.decoder = self.decoder.new_caches(num_rows)
            cache.inner = self.inner.new_cache(num_rows)
        return cache

    def _widened(self, values: Tensor) -> Tensor:
        if self.width_pad is None:
            return values
        pad = self.width_pad.to(values.dtype).expand(values.shape[0], -1)
        return torch.cat([values, pad], -1)


def _output(x: Packed, boundaries: Boundaries, chunk_map: ChunkMap, num_bytes: int) -> StageOutput:
    """What a process reports: of its own units, so that sums over processes are those of the whole pack."""
    if chunk_map.deal is None:
        return StageOutput(boundaries, x.cu_seqlens, chunk_map.offsets.shape[0] - 1, num_bytes)
    if x.shard is not None and x.shard.is_padding:
        return StageOutput(boundaries.none(), x.cu_seqlens[:1], 0, 0)
    return StageOutput(boundaries, x.cu_seqlens, chunk_map.deal.shard.num_real, num_bytes)
