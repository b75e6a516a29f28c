"""Kernels read the bounds of documents and chunks wherever they lie: a column of a wider tensor will do."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import hnet_kernels as ops
from hnet_kernels import backend

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MASK = torch.tensor([True, False, True, True, False, False, False], device=DEVICE)
INDEX = torch.tensor([0, 0, 1, 2, 2, 2, 2], device=DEVICE)


def rows(x: Tensor) -> Tensor:
    """(7,5) to one head of each unit."""
    return x[:, None]


def keys(x: Tensor) -> Tensor:
    """(7,5) to one key of one head of each of three chunks."""
    return x[:3, None, None]


# Of x (7,5), the bounds of two documents and those of three chunks.
CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "route": lambda x, cu, _: ops.route(x, x.flip(1), cu).prob,
    "chunk": lambda x, cu, _: ops.chunk(x, MASK, cu).values,
    "ema": lambda x, cu, _: ops.ema(x, torch.full_like(x[:, 0], 0.6), cu),
    "upsample": lambda x, _, offsets: ops.upsample(x[:3], INDEX, x[:, 0], x, chunk_offsets=offsets),
    "pool": lambda x, _, offsets: ops.pool_attention(keys(x), rows(x), rows(x), offsets),
    "unpool": lambda x, _, offsets: ops.unpool_attention(rows(x), keys(x), keys(x), offsets),
    "mean": lambda x, _, offsets: ops.segment_reduce(x, offsets, "mean"),
    "max": lambda x, _, offsets: ops.segment_reduce(x, offsets, "max"),
    "last": lambda x, _, offsets: ops.segment_reduce(x, offsets, "last"),
    "offset_linear": lambda x, _, offsets: ops.offset_linear(x[:3], x[None, 2:], offsets, num_units=7),
    "hash_ngram": lambda x, cu, _: ops.hash_ngram(INDEX, x[None], cu, [2], [31]),
}


def column(values: Sequence[int]) -> Tensor:
    """Bounds whose neighbours in memory are no bounds."""
    return torch.tensor([[value, 5] for value in values], dtype=torch.int32, device=DEVICE)[:, 0]


@pytest.mark.parametrize("name", CASES)
def test_bounds_need_not_be_contiguous(name):
    results = []
    for implementation in ("reference", "triton"):
        torch.manual_seed(0)
        x = torch.randn(7, 5, device=DEVICE, requires_grad=True)
        with backend(implementation):
            out = CASES[name](x, column([0, 3, 7]), column([0, 2, 3, 7]))
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), x)])
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want)
