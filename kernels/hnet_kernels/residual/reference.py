"""The residual projection of a chunking stage in three precisions, through the library's matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hnet_kernels.packed import widen

TF32_DROPPED_BITS = 13
"""float32 has 23 bits of fraction, TF32 has 10."""


def rounded_to_tf32(t: Tensor) -> Tensor:
    """float32 rounded to TF32's fraction, to nearest, ties to even."""
    bits = t.contiguous().view(torch.int32)
    half = (1 << (TF32_DROPPED_BITS - 1)) - 1
    bits = bits + half + ((bits >> TF32_DROPPED_BITS) & 1)
    return (bits & -(1 << TF32_DROPPED_BITS)).view(torch.float32)


@contextmanager
def tf32_products(enabled: bool) -> Iterator[None]:
    """Within the block CUDA's float32 matrix products use TF32 or not, whatever the process has set."""
    settings = torch.backends.cuda.matmul
    name, wanted = ("fp32_precision", "tf32" if enabled else "ieee") if hasattr(settings, "fp32_precision") else (
        "allow_tf32", enabled
    )  # fmt: skip
    before = getattr(settings, name)
    setattr(settings, name, wanted)
    try:
        yield
    finally:
        setattr(settings, name, before)


def product(a: Tensor, b: Tensor, precision: str) -> Tensor:
    """a @ b, its operands rounded to `precision`, summed in float32 (float64 for float64). Wide result, but on CUDA
    for bf16, where it is what the library gives: bfloat16.

    A CPU has no such units: there the operands are rounded, and the product of the rounded ones is exact enough.
    """
    if a.dtype == torch.float64:
        return a @ b
    if precision == "bf16":
        a, b = a.bfloat16(), b.bfloat16()
        return a @ b if a.is_cuda else a.float() @ b.float()
    a, b = a.float(), b.float()
    if precision == "tf32" and not a.is_cuda:
        a, b = rounded_to_tf32(a), rounded_to_tf32(b)
    with tf32_products(precision == "tf32"):
        return a @ b


def result_dtype(x: Tensor, precision: str) -> torch.dtype:
    """bfloat16 for bf16, else x's, widened."""
    if precision == "bf16" and x.dtype != torch.float64:
        return torch.bfloat16
    return torch.promote_types(x.dtype, torch.float32)


def residual_forward(x: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
    """x (T,D) @ weight (N,D).T + bias (N,), in `result_dtype`."""
    if precision == "bf16" and x.is_cuda:
        return torch.nn.functional.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16())
    out = product(x, weight.t(), precision)
    return out.add_(bias).to(result_dtype(x, precision))


def residual_backward(grad: Tensor, x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, in its dtype, of weight and of bias, in theirs."""
    dx = product(grad, weight, precision).to(x.dtype)
    if precision == "bf16" and grad.is_cuda:
        dweight = torch.mm(grad.bfloat16().t(), x.bfloat16(), out_dtype=torch.float32)
    else:
        dweight = product(grad.t(), x, precision)
    (wide,) = widen(grad)
    return dx, dweight.to(weight.dtype), wide.sum(0).to(weight.dtype)
