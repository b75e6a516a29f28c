"""The residual path of a chunking stage: a linear layer beside the chunks, in a precision of choice."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hnet_kernels.residual import reference

Precision = Literal["fp32", "tf32", "bf16"]


def check_precision(precision: str) -> None:
    """Raise ValueError for a name that is no `Precision`."""
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")


@torch.library.custom_op("hnet::residual_linear", mutates_args=())
def project(x: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
    return reference.residual_forward(x, weight, bias, precision)


@project.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, precision: str) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=reference.result_dtype(x, precision))


@torch.library.custom_op("hnet::residual_linear_backward", mutates_args=())
def project_backward(grad: Tensor, x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    return reference.residual_backward(grad, x, weight, precision)


@project_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, precision: str) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.precision = inputs[3]


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*project_backward(grad, *ctx.saved_tensors, ctx.precision), None)


project.register_autograd(differentiate, setup_context=save)


def residual_linear(x: Tensor, weight: Tensor, bias: Tensor, *, precision: Precision = "fp32") -> Tensor:
    """x @ weight.T + bias, the residual path of H-Net (arXiv 2507.07955, section 2.2.3), forward and backward.

    Args:
        x: (T,D).
        weight: (N,D), bias: (N,), float32.
        precision: of the operands. "fp32" as in the released models; "tf32" rounds them to 10 bits of fraction
            and "bf16" to 7; sums are float32 in all three. On a CPU the rounding is done in software.

    Returns:
        (T,N) float32, or bfloat16 for "bf16"; float64 for float64 inputs whatever the precision.

    Raises:
        ValueError: another precision.
    """
    check_precision(precision)
    result: Tensor = project(x, weight, bias, precision)
    return result
