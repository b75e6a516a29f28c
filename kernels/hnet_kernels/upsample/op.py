"""Return from chunks to units: every unit gets its chunk, plus the residual path."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation


@torch.library.custom_op("hnet::upsample", mutates_args=())
def expand(
    zbar: Tensor,
    chunk_index: Tensor,
    confidence: Tensor,
    residual: Tensor,
    chunk_offsets: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    if chunk_offsets is not None and chunk_offsets.shape != (zbar.shape[0] + 1,):
        wanted, got = (zbar.shape[0] + 1,), tuple(chunk_offsets.shape)
        raise ValueError(f"chunk_offsets of {zbar.shape[0]} chunks must have shape {wanted}, got {got}")
    return implementation("upsample", zbar).upsample_forward(zbar, chunk_index, residual, out_dtype)


@expand.register_fake
def _(
    zbar: Tensor,
    chunk_index: Tensor,
    confidence: Tensor,
    residual: Tensor,
    chunk_offsets: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    return residual.new_empty(residual.shape, dtype=out_dtype)


@torch.library.custom_op("hnet::upsample_backward", mutates_args=())
def expand_backward(
    grad: Tensor, zbar: Tensor, chunk_index: Tensor, chunk_offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    return implementation("upsample", zbar).upsample_backward(grad, zbar, chunk_index, chunk_offsets)


@expand_backward.register_fake
def _(grad: Tensor, zbar: Tensor, chunk_index: Tensor, chunk_offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(zbar.dtype, torch.float32)
    return zbar.new_empty(zbar.shape), zbar.new_empty(grad.shape[0], dtype=wide)


def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    zbar, chunk_index, confidence, residual, chunk_offsets, _ = inputs
    ctx.save_for_backward(zbar, chunk_index, chunk_offsets)
    ctx.confidence_dtype, ctx.residual_dtype = confidence.dtype, residual.dtype


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dzbar, dconfidence = expand_backward(grad, *ctx.saved_tensors)
    return dzbar, None, dconfidence.to(ctx.confidence_dtype), grad.to(ctx.residual_dtype), None, None


expand.register_autograd(differentiate, setup_context=save)


def upsample(
    zbar: Tensor,
    chunk_index: Tensor,
    confidence: Tensor,
    residual: Tensor,
    *,
    chunk_offsets: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """residual + zbar[chunk_index] * STE(confidence) (H-Net, arXiv 2507.07955, equations 7 to 9).

    The straight-through estimator multiplies by exactly 1; going back, the confidence gets
    <dout_t, zbar[chunk_index_t]>, in float32. The dtypes of zbar, residual and result may differ.

    Args:
        zbar: (M,D) smoothed chunks.
        chunk_index: (T,) int64, from `chunk`: 0 at first, then the same or one more from unit to unit, to M-1.
        confidence: (T,) float32.
        residual: (T,D). Its gradient is the result's, not copied if the dtypes agree.
        chunk_offsets: (M+1,) int32; chunk j spans units chunk_offsets[j] to chunk_offsets[j+1] - 1. Derived from
            chunk_index where the backward pass needs it and it is not given.
        out_dtype: Of the result; the residual's if None.

    Returns:
        (T,D), summed in float32 and rounded once.

    Raises:
        ValueError: chunk_offsets does not have M+1 elements.
    """
    return expand(zbar, chunk_index, confidence, residual, chunk_offsets, out_dtype or residual.dtype)
