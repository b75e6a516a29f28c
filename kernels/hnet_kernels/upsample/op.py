"""Return from chunks to units: every unit gets its chunk, plus the residual path."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.upsample import reference


@torch.library.custom_op("hnet::upsample", mutates_args=())
def expand(zbar: Tensor, chunk_index: Tensor, confidence: Tensor, residual: Tensor) -> Tensor:
    return reference.upsample_forward(zbar, chunk_index, residual)


@expand.register_fake
def _(zbar: Tensor, chunk_index: Tensor, confidence: Tensor, residual: Tensor) -> Tensor:
    return residual.new_empty(residual.shape)


@torch.library.custom_op("hnet::upsample_backward", mutates_args=())
def expand_backward(grad: Tensor, zbar: Tensor, chunk_index: Tensor) -> tuple[Tensor, Tensor]:
    return reference.upsample_backward(grad, zbar, chunk_index)


@expand_backward.register_fake
def _(grad: Tensor, zbar: Tensor, chunk_index: Tensor) -> tuple[Tensor, Tensor]:
    return zbar.new_empty(zbar.shape), grad.new_empty(grad.shape[0])


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    dzbar, dconfidence = expand_backward(grad, *ctx.saved_tensors)
    return dzbar, None, dconfidence, grad


expand.register_autograd(differentiate, setup_context=save)


def upsample(zbar: Tensor, chunk_index: Tensor, confidence: Tensor, residual: Tensor) -> Tensor:
    """residual + zbar[chunk_index] * STE(confidence) (H-Net, arXiv 2507.07955, equations 7 to 9).

    The straight-through estimator multiplies by exactly 1; going back, the confidence gets
    <dout_t, zbar[chunk_index_t]>.

    Args:
        zbar: (M,D) smoothed chunks.
        chunk_index: (T,) int64, from `chunk`.
        confidence: (T,).
        residual: (T,D); its dtype is the result's.
    """
    wide = torch.promote_types(residual.dtype, torch.float32)
    out = expand(zbar.to(wide), chunk_index, confidence.to(wide), residual.to(wide))
    return out.to(residual.dtype)
