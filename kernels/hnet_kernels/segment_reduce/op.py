"""Mean, sum, maximum, first or last unit of every chunk."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_chunk_offsets

Reduction = Literal["mean", "max", "sum", "first", "last"]


@torch.library.custom_op("hnet::segment_reduce", mutates_args=())
def reduce(x: Tensor, chunk_offsets: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    check_chunk_offsets(chunk_offsets, x.shape[0])
    out, argmax = implementation("segment_reduce", x).segment_reduce_forward(x, chunk_offsets, reduction)
    return out, argmax


@reduce.register_fake
def _(x: Tensor, chunk_offsets: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    shape = chunk_offsets.shape[0] - 1, x.shape[1]
    return x.new_empty(shape), x.new_empty(shape if reduction == "max" else (0, shape[1]), dtype=torch.int32)


@torch.library.custom_op("hnet::segment_reduce_backward", mutates_args=())
def reduce_backward(grad: Tensor, chunk_offsets: Tensor, argmax: Tensor, num_units: int, reduction: str) -> Tensor:
    kernels = implementation("segment_reduce", grad)
    dx: Tensor = kernels.segment_reduce_backward(grad, chunk_offsets, argmax, num_units, reduction)
    return dx


@reduce_backward.register_fake
def _(grad: Tensor, chunk_offsets: Tensor, argmax: Tensor, num_units: int, reduction: str) -> Tensor:
    return grad.new_empty(num_units, grad.shape[1])


def save(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: tuple[Tensor, Tensor]) -> None:
    x, chunk_offsets, ctx.reduction = inputs
    ctx.num_units = x.shape[0]
    ctx.mark_non_differentiable(output[1])
    # Else zeros are made up for the gradient that argmax does not have.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(chunk_offsets, output[1])


def differentiate(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return reduce_backward(grad, *ctx.saved_tensors, ctx.num_units, ctx.reduction), None, None


reduce.register_autograd(differentiate, setup_context=save)


def segment_reduce(x: Tensor, chunk_offsets: Tensor, reduction: Reduction) -> Tensor:
    """One row for every chunk: the mean, sum, elementwise maximum, first or last of its units.

    Mean pools Hourglass-like models (arXiv 2211.09761), max the queries of BLT (arXiv 2412.09871, section 3.2),
    last the word vectors of AU-Net and Bolmo, first those of H-Net. The gradient of a maximum goes to one unit, the
    first of those that attain it; a NaN counts as the greatest value.

    Args:
        x: (T,D) units.
        chunk_offsets: (M+1,) int32; chunk j is the units chunk_offsets[j] to chunk_offsets[j+1] - 1.
        reduction: "mean", "max", "sum", "first" or "last".

    Returns:
        (M,D) in x's dtype. Half precision is summed in float32.

    Raises:
        ValueError: an unknown reduction, or chunk_offsets does not rise strictly from 0 to T.
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
    return reduce(x, chunk_offsets, reduction)[0]
