"""The one recursive stage: segment, encode, pool, main (perhaps another stage), unpool, decode."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import LayerCache, OpenChunk, StageCache, StateCache
from hnet.model.chunking import ChunkMap, chunked, num_whole, offsets_of, scoped, visible_when_whole
from hnet.model.config import StageConfig
from hnet.model.config.registry import BOUNDARIES, POOLS, UNPOOLS, module_class
from hnet.model.config.stage import part_sizes
from hnet.model.packed import Packed
from hnet.model.residual import Identity, Residual, Skip
from hnet.model.stack import Stack
from hnet_kernels.packed import segment_ids

Trace = list[tuple[Tensor, Boundaries]]
"""Of every stage that ran in a step: rows (R,), and what it decided about their unit."""


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

    A wider stage than what it is given appends the learned vector `width_pad` to every unit.
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
            self.main = self._stack("main", norm_eps, device)
            return
        sizes = part_sizes(config, stages[1], norm_eps)
        self.encoder = self._stack("encoder", norm_eps, device)
        self.router = module_class(BOUNDARIES, config.boundary)(sizes, config.boundary, device=device)
        self.pool = module_class(POOLS, config.pool)(sizes, config.pool, device=device)
        self.residual: Skip = (
            Residual(width, config.residual_precision, device=device) if config.residual == "linear" else Identity()
        )
        self.inner = Stage(stages[1:], sizes.chunk_width, norm_eps, device=device)
        self.unpool = module_class(UNPOOLS, config.unpool)(sizes, config.unpool, device=device)
        self.decoder = self._stack("decoder", norm_eps, device)

    def forward(self, x: Packed, num_bytes: int, cache: StageCache | None = None) -> tuple[Tensor, list[StageOutput]]:
        """(T_s, outer width) -> (T_s, outer width), and the outputs of this stage and those inside it."""
        outer_width, config = None if self.width_pad is None else x.values.shape[-1], self.config
        x = replace(x, values=self._widened(x.values))
        if config.is_innermost:
            values = self.main(x, cache.main if cache else None)
            return values[:, :outer_width], []
        early = None if config.boundary.reads_encoder else self.router(x, cache.boundary if cache else None)
        offsets = offsets_of(early) if early is not None and self._is_scoped else None
        encoded = replace(x, values=self._encoded(x, offsets, cache))
        boundaries = early if early is not None else self.router(encoded, cache.boundary if cache else None)
        firsts, chunk_map, around = chunked(encoded, boundaries, self.residual)
        if config.pool.reads_whole:
            reset = config.decoder_mask == "chunk_causal"
            visible = visible_when_whole(x, boundaries, chunk_map, decoder_is_reset=reset)
            chunk_map = replace(chunk_map, visible=visible)
        pooled = self.pool(encoded, firsts, chunk_map)
        inner, outputs = self._inner(pooled, encoded, boundaries, chunk_map, num_bytes, cache)
        start, injection = self.unpool(
            inner,
            boundaries,
            chunk_map,
            around if config.start == "encoded" else x.values,
            encoded.values.dtype,
            cache.unpool if cache else None,
        )
        if cache is not None:
            self._remember(x, encoded, boundaries, chunk_map, cache)
        pack = replace(x, values=start)
        if config.decoder_mask == "chunk_causal":
            pack = scoped(pack, chunk_map.offsets, keep_last=cache is not None)
        decoded = self.decoder(pack, cache.decoder if cache else None, injection)
        output = _output(x, boundaries, chunk_map, num_bytes)
        return decoded[:, :outer_width], [output, *outputs]

    def step(self, x: Tensor, cache: StageCache, rows: Tensor, marks: Tensor | None = None) -> tuple[Tensor, Trace]:
        """One unit (R, outer width) of each of `rows` -> (R, outer width), and per stage (rows, boundaries).

        Inner stages run only for the rows whose unit opens a chunk, or shows that one is whole.
        """
        outer_width, config = x.shape[-1], self.config
        values = self._widened(x)
        if config.is_innermost:
            return self.main.step(values, cache.main, rows)[:, :outer_width], []
        num_seen = cache.place.read("units", rows, torch.zeros_like(rows))
        cache.place.write("units", num_seen + 1, rows)
        is_first, late = num_seen == 0, config.boundary.reads_encoder
        early = None if late else self.router.step(values, cache.boundary, rows, is_first, marks)
        if config.encoder_mask == "chunk_causal" and early is not None:
            _reset(cache.encoder, rows[early.mask])
        held = values if self._encodes_whole else self.encoder.step(values, cache.encoder, rows)
        boundaries = early if early is not None else self.router.step(held, cache.boundary, rows, is_first)
        position = cache.place.read("position", rows, torch.zeros_like(rows)) + 1
        position = position.masked_fill(boundaries.mask, 0)
        cache.place.write("position", position, rows)
        trace = [(rows, boundaries), *self._step_chunks(held, boundaries, cache, rows, is_first)]
        around = values if config.start == "input" else self.residual.around(held)
        start, injection = self.unpool.step(around, position, cache.unpool, rows)
        if config.decoder_mask == "chunk_causal":
            _reset(cache.decoder, rows[boundaries.mask])
        decoded = self.decoder.step(start.to(held.dtype), cache.decoder, rows, injection)
        return decoded[:, :outer_width], trace

    def new_cache(self, num_rows: int) -> StageCache:
        """Empty state for `num_rows` documents."""
        boundary, unpool, place = (StateCache(num_rows) for _ in range(3))
        cache = StageCache(boundary, unpool, place, OpenChunk(num_rows))
        if self.config.is_innermost:
            cache.main = self.main.new_caches(num_rows)
        else:
            cache.encoder = self.encoder.new_caches(num_rows)
            cache.decoder = self.decoder.new_caches(num_rows)
            cache.inner = self.inner.new_cache(num_rows)
        return cache

    @property
    def _encodes_whole(self) -> bool:
        """The encoder sees whole chunks, so it runs only when they have ended."""
        return self.config.encoder_mask == "chunk_bidirectional"

    @property
    def _is_scoped(self) -> bool:
        return self.config.encoder_mask.startswith("chunk")

    def _stack(self, name: str, norm_eps: float, device: torch.device | str | None) -> Stack:
        layers, mask = getattr(self.config, name) or "", getattr(self.config, f"{name}_mask")
        causal, has_norm = "bidirectional" not in mask, name in self.config.final_norms
        return Stack(layers, self.config, norm_eps, causal=causal, has_norm=has_norm, device=device)

    def _encoded(self, x: Packed, offsets: Tensor | None, cache: StageCache | None) -> Tensor:
        caches = cache.encoder if cache is not None and not self._encodes_whole else None
        pack = x if offsets is None else scoped(x, offsets, keep_last=caches is not None)
        return self.encoder(pack, caches)

    def _inner(
        self,
        pooled: Tensor,
        x: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        num_bytes: int,
        cache: StageCache | None,
    ) -> tuple[Packed, list[StageOutput]]:
        """Chunk vectors (M * positions, D') through the stage inside."""
        positions = self.config.pool.positions
        longest = None if x.max_seqlen is None else x.max_seqlen * positions
        shard = None if chunk_map.deal is None else chunk_map.deal.shard
        if shard is not None:
            longest = shard.max_seqlen
        chunks = Packed(pooled, chunk_map.cu_seqlens * positions, longest, shard, rows=x.rows)
        if cache is None or not self.config.pool.reads_whole:
            inner, outputs = self.inner(chunks, num_bytes, cache.inner if cache else None)
            return replace(chunks, values=inner), outputs
        # A chunk that may go on is not shown to the stage inside: its cache could not take that back.
        document = segment_ids(x.cu_seqlens, x.values.shape[0])
        counts = num_whole(x, boundaries, document)[x.cu_seqlens[1:].long() - 1]
        number = torch.arange(chunk_map.num_chunks, device=pooled.device)
        owner = segment_ids(chunk_map.cu_seqlens, chunk_map.num_chunks)
        whole = number - chunk_map.cu_seqlens[:-1].long()[owner] < counts[owner]
        taken = whole.repeat_interleave(positions).nonzero().squeeze(1)
        values = torch.zeros_like(pooled)
        if taken.numel() == 0:
            return replace(chunks, values=values), []
        cu_seqlens = torch.cat([counts.new_zeros(1), counts[counts > 0].cumsum(0)]).int() * positions
        finished = Packed(pooled[taken], cu_seqlens, longest, rows=x.cache_rows()[counts > 0])
        inner, outputs = self.inner(finished, num_bytes, cache.inner)
        return replace(chunks, values=values.index_copy(0, taken, inner)), outputs

    def _step_chunks(
        self, held: Tensor, boundaries: Boundaries, cache: StageCache, rows: Tensor, is_first: Tensor
    ) -> Trace:
        """Give the chunks that opened, or are whole now, to the stage inside and its vectors to the unpool."""
        if cache.inner is None:
            return []
        if self.config.pool.reads_whole:
            cache.open.extend(held, torch.ones_like(rows), rows)
            closes = boundaries.mask & ~is_first if boundaries.closes is None else boundaries.closes
            ready = closes.nonzero().squeeze(1)
            if not ready.numel():
                return []
            behind = torch.ones_like(rows) if boundaries.behind is None else boundaries.behind
            units, cu_seqlens = cache.open.take(rows[ready], behind[ready])
            before = cache.count_chunks(rows[ready], behind[ready] + cu_seqlens.diff())
        else:
            before = None
            ready = boundaries.mask.nonzero().squeeze(1)
            if not ready.numel():
                return []
            units = held[ready]
            cu_seqlens = torch.arange(ready.numel() + 1, dtype=torch.int32, device=rows.device)
        pack = Packed(units, cu_seqlens)
        if self._encodes_whole:
            pack = replace(pack, values=self.encoder(pack))
        documents = torch.arange(ready.numel() + 1, dtype=torch.int32, device=rows.device)
        index = segment_ids(cu_seqlens, units.shape[0])
        chunk_map = ChunkMap(index, cu_seqlens, documents, index, before=before)
        pooled = self.pool(pack, pack.values[cu_seqlens[:-1].long()], chunk_map)
        steps = pooled.view(ready.numel(), self.config.pool.positions, -1).unbind(1)
        stepped = [self.inner.step(vectors, cache.inner, rows[ready]) for vectors in steps]
        self.unpool.step_chunk(
            torch.stack([values for values, _ in stepped], 1), boundaries.prob[ready], cache.unpool, rows[ready]
        )
        return [entry for _, trace in stepped for entry in trace]

    def _remember(
        self, x: Packed, encoded: Packed, boundaries: Boundaries, chunk_map: ChunkMap, cache: StageCache
    ) -> None:
        """What steps go on from: where each document is, and the units of its chunk that is not whole yet."""
        kept, rows = x.kept()
        ends = x.cu_seqlens[1:].long()[kept]
        cache.place.write("units", x.cu_seqlens.diff().long()[kept], rows)
        cache.place.write("position", ends - 1 - chunk_map.offsets.long()[chunk_map.index[ends - 1]], rows)
        if not self.config.pool.reads_whole:
            return
        document = segment_ids(x.cu_seqlens, x.values.shape[0])
        count = num_whole(x, boundaries, document)[ends - 1]
        first_open = chunk_map.cu_seqlens[:-1].long()[kept] + count
        cache.place.write("chunks", count, rows)
        begins = torch.minimum(chunk_map.offsets.long()[first_open], ends)
        source = x.values if self._encodes_whole else encoded.values
        units = torch.cat([source[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)])
        cache.open.extend(units, ends - begins, rows)

    def _widened(self, values: Tensor) -> Tensor:
        if self.width_pad is None:
            return values
        pad = self.width_pad.to(values.dtype).expand(values.shape[0], -1)
        return torch.cat([values, pad], -1)


def _reset(caches: list[LayerCache], rows: Tensor) -> None:
    for cache in caches:
        cache.reset(rows)


def _output(x: Packed, boundaries: Boundaries, chunk_map: ChunkMap, num_bytes: int) -> StageOutput:
    """What a process reports: of its own units, so that sums over processes are those of the whole pack."""
    if chunk_map.deal is None:
        return StageOutput(boundaries, x.cu_seqlens, chunk_map.num_chunks, num_bytes)
    if x.shard is not None and x.shard.is_padding:
        return StageOutput(boundaries.none(), x.cu_seqlens[:1], 0, 0)
    return StageOutput(boundaries, x.cu_seqlens, chunk_map.deal.shard.num_real, num_bytes)
