"""The path from units to chunks and back as one case: route, chunk, ema, upsample on given states."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from hnet_kernels.case import Case, Sizes
from hnet_kernels.chunk.case import CASES as CHUNK
from hnet_kernels.chunk.op import chunk
from hnet_kernels.ema.case import CASES as EMA
from hnet_kernels.ema.op import ema
from hnet_kernels.route.case import CASES as ROUTE
from hnet_kernels.route.op import route
from hnet_kernels.upsample.case import CASES as UPSAMPLE
from hnet_kernels.upsample.op import upsample

STEPS = (ROUTE[0], CHUNK[0], EMA[0], UPSAMPLE[0])


def inputs(sizes: Sizes) -> dict[str, Any]:
    """Keys that oppose the query before them at the boundaries of `sizes`, and are like it elsewhere."""
    generator = sizes.generator()
    noise, q, x, residual = (
        torch.randn(sizes.num_units, sizes.width, generator=generator, device=sizes.device, dtype=sizes.dtype)
        for _ in range(4)
    )
    sign = 1 - 2 * sizes.boundary_mask().to(sizes.dtype)[:, None]
    k = sign * q.roll(1, 0) + noise
    tensors = {"q": q, "k": k, "x": x, "residual": residual}
    return {name: t.requires_grad_() for name, t in tensors.items()} | {"cu_seqlens": sizes.cu_seqlens()}


def run(q: Tensor, k: Tensor, x: Tensor, residual: Tensor, cu_seqlens: Tensor) -> Tensor:
    routing = route(q, k, cu_seqlens)
    chunks = chunk(x, routing.mask, cu_seqlens)
    prob = routing.prob.index_select(0, chunks.chunk_offsets[:-1])
    zbar = ema(chunks.values, prob, chunks.cu_seqlens, at_least_half=True)
    return upsample(zbar, chunks.chunk_index, routing.confidence, residual, chunk_offsets=chunks.chunk_offsets)


def eager(q: Tensor, k: Tensor, x: Tensor, residual: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The eager compositions of the steps, one after the other."""
    route_, chunk_, ema_, upsample_ = (step.others["eager"] for step in STEPS)
    prob, confidence, _ = route_(q, k, cu_seqlens)
    mask = prob > 0.5
    counts = mask.cumsum(0)
    chunk_cu_seqlens = pad(counts[cu_seqlens[1:].long() - 1], (1, 0)).int()
    zbar = ema_(chunk_(x, mask, cu_seqlens), prob[mask], chunk_cu_seqlens)
    out = upsample_(zbar, counts - 1, confidence, residual, None)
    assert isinstance(out, Tensor)
    return out


def floor(sizes: Sizes) -> tuple[int, int]:
    """The sum of the steps' floors."""
    forward, backward = zip(*(step.floor(sizes) for step in STEPS), strict=True)
    return sum(forward), sum(backward)


PATH = Case("path", inputs, run, floor, {"eager": eager})
