"""Depthwise causal convolution + SiLU over packed documents, in plain PyTorch.

A convolution of K taps is K multiply-adds of shifted rows. They run on blocks of rows that stay in
a core's cache and never reach over the start of a document.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from hnet_kernels.packed import row_blocks


def document_blocks(cu_seqlens: Tensor, width: int) -> Iterator[tuple[int, int, int]]:
    """(start of the document, start of the block, end of the block), in order."""
    bounds = cu_seqlens.tolist()
    for start, stop in zip(bounds, bounds[1:], strict=False):
        for a, b in row_blocks(stop - start, width):
            yield start, start + a, start + b


def taps_by_shift(weight: Tensor) -> tuple[Tensor, ...]:
    """The K taps (C,) of weight (C,K), the one that meets x[t-s] at index s."""
    return weight.t().flip(0).contiguous().unbind(0)


def convolve(x: Tensor, taps: tuple[Tensor, ...], bias: Tensor, start: int, a: int, b: int, *, out: Tensor) -> Tensor:
    """bias + sum over s of taps[s] * x[t-s], for t in a..b-1 of a document that begins at `start`."""
    torch.addcmul(bias, x[a:b], taps[0], out=out)
    for shift, tap in enumerate(taps[1:], start=1):
        low = max(a - shift, start)
        if low < b - shift:
            out[low + shift - a :].addcmul_(x[low : b - shift], tap)
    return out


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    taps = taps_by_shift(weight)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    for start, a, b in document_blocks(cu_seqlens, x.shape[1]):
        torch.nn.functional.silu(convolve(x, taps, bias, start, a, b, out=y[a:b]), inplace=True)
    return y


def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias."""
    taps = taps_by_shift(weight)
    dtaps, dbias = x.new_zeros(len(taps), x.shape[1]), torch.zeros_like(bias)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = row_blocks(*x.shape)[0][1]
    inner, scratch = (dx.new_empty(rows, x.shape[1]) for _ in range(2))
    ones = dx.new_ones(rows)
    for start, a, b in document_blocks(cu_seqlens, x.shape[1]):
        block = convolve(x, taps, bias, start, a, b, out=inner[: b - a])
        torch.ops.aten.silu_backward.grad_input(grad[a:b], block, grad_input=block)
        dbias.addmv_(block.t(), ones[: b - a])
        torch.mul(block, taps[0], out=dx[a:b])
        for shift, (tap, dtap) in enumerate(zip(taps, dtaps.unbind(0), strict=True)):
            low = max(a - shift, start)
            if low >= b - shift:
                continue
            reached = block[low + shift - a :]
            if shift:
                dx[low : b - shift].addcmul_(reached, tap)
            product = torch.mul(reached, x[low : b - shift], out=scratch[: reached.shape[0]])
            dtap.addmv_(product.t(), ones[: reached.shape[0]])
    return dx, dtaps.flip(0).t().contiguous(), dbias
