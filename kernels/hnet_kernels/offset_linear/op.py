"""A linear map for every offset inside a chunk: the upsampling of AU-Net."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_chunk_offsets


@torch.library.custom_op("hnet::offset_linear", mutates_args=())
def expand(z: Tensor, weight: Tensor, chunk_offsets: Tensor, bias: Tensor | None, num_units: int, wrap: bool) -> Tensor:
    check_chunk_offsets(chunk_offsets, num_units)
    kernels = implementation("offset_linear", z)
    out: Tensor = kernels.offset_linear_forward(z, weight, chunk_offsets, bias, num_units, wrap)
    return out


@expand.register_fake
def _(z: Tensor, weight: Tensor, chunk_offsets: Tensor, bias: Tensor | None, num_units: int, wrap: bool) -> Tensor:
    return z.new_empty(num_units, weight.shape[1])


@torch.library.custom_op("hnet::offset_linear_backward", mutates_args=())
def expand_backward(
    grad: Tensor, z: Tensor, weight: Tensor, chunk_offsets: Tensor, has_bias: bool, wrap: bool
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = implementation("offset_linear", z)
    dz, dweight, dbias = kernels.offset_linear_backward(grad, z, weight, chunk_offsets, has_bias, wrap)
    return dz, dweight, dbias


@expand_backward.register_fake
def _(
    grad: Tensor, z: Tensor, weight: Tensor, chunk_offsets: Tensor, has_bias: bool, wrap: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_offsets, width = weight.shape[:2]
    return z.new_empty(z.shape), weight.new_empty(weight.shape), weight.new_empty(num_offsets if has_bias else 0, width)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, int, bool], output: Tensor) -> None:
    z, weight, chunk_offsets, bias, _, ctx.wrap = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(z, weight, chunk_offsets)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dz, dweight, dbias = expand_backward(grad, *ctx.saved_tensors, ctx.has_bias, ctx.wrap)
    return dz, dweight, None, dbias if ctx.has_bias else None, None, None


expand.register_autograd(differentiate, setup_context=save)


def offset_linear(
    z: Tensor,
    weight: Tensor,
    chunk_offsets: Tensor,
    bias: Tensor | None = None,
    *,
    num_units: int | None = None,
    wrap: bool = False,
) -> Tensor:
    """Every unit gets its chunk through the matrix of its place in the chunk (AU-Net, arXiv 2506.14761, section 2.2).

    The unit at offset o of chunk j gets weight[k] @ z[j] + bias[k] with k = min(o, K-1), or o mod K if `wrap`.

    Args:
        z: (M,Din) chunks.
        weight: (K,Dout,Din); AU-Net has K = 16. Cast to z's dtype.
        chunk_offsets: (M+1,) int32; chunk j is the units chunk_offsets[j] to chunk_offsets[j+1] - 1.
        bias: (K,Dout) or None. Cast to z's dtype.
        num_units: T. Without it T is read from chunk_offsets, which makes the host wait for a GPU and cannot be
            captured by torch.compile.
        wrap: what AU-Net does beyond K offsets.

    Returns:
        (T,Dout) in z's dtype. Half precision is accumulated in float32.

    Raises:
        ValueError: shapes that do not fit, or chunk_offsets does not rise strictly from 0 to T.
    """
    if weight.dim() != 3 or weight.shape[2] != z.shape[1]:
        raise ValueError(f"weight must have shape (K, Dout, {z.shape[1]}), got {tuple(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:2]:
        raise ValueError(f"bias must have shape {tuple(weight.shape[:2])}, got {tuple(bias.shape)}")
    if chunk_offsets.shape[0] != z.shape[0] + 1:
        raise ValueError(f"chunk_offsets must have {z.shape[0] + 1} elements, got {chunk_offsets.shape[0]}")
    if num_units is None:
        num_units = int(chunk_offsets[-1])
    bias = None if bias is None else bias.to(z.dtype)
    return expand(z, weight.to(z.dtype), chunk_offsets, bias, num_units, wrap)
