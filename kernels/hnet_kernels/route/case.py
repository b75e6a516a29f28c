"""Sizes, floor and rivals of `route`."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.route.op import route


def inputs(sizes: Sizes) -> dict[str, Any]:
    generator = sizes.generator()
    shape = (sizes.num_units, sizes.width)
    q, k = (
        torch.randn(*shape, generator=generator, device=sizes.device, dtype=sizes.dtype).requires_grad_()
        for _ in range(2)
    )
    return {"q": q, "k": k, "cu_seqlens": sizes.cu_seqlens()}


def run(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    routing = route(q, k, cu_seqlens)
    return routing.prob, routing.confidence, routing.prob_sum


def eager(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As the released models compute it, but in float32."""
    cosine = torch.nn.functional.cosine_similarity(q[:-1].float(), k[1:].float(), dim=-1, eps=1e-12)
    prob = torch.nn.functional.pad(((1 - cosine) / 2).clamp(0, 1), (1, 0), value=1.0)
    prob = prob.index_fill(0, cu_seqlens[:-1].long(), 1.0)
    return prob, prob.where(prob > 0.5, 1 - prob), prob.sum()


def floor(sizes: Sizes) -> tuple[int, int]:
    """q and k are read; going back also their gradients are written."""
    rows = sizes.num_units * sizes.row_bytes
    return 2 * rows, 4 * rows


CASES = (Case("route", inputs, run, floor, {"eager": eager}),)
