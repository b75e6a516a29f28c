"""Exponential smoothing of chunks: the dechunking of H-Net before upsampling."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.ema import reference
from hnet_kernels.packed import check_cu_seqlens, widen


@torch.library.custom_op("hnet::ema", mutates_args=())
def smooth(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    check_cu_seqlens(cu_seqlens, z.shape[0])
    return reference.ema_forward(z, prob, cu_seqlens)


@smooth.register_fake
def _(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    return z.new_empty(z.shape)


@torch.library.custom_op("hnet::ema_backward", mutates_args=())
def smooth_backward(grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor) -> tuple[Tensor, Tensor]:
    return reference.ema_backward(grad, z, prob, cu_seqlens, zbar)


@smooth_backward.register_fake
def _(grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), prob.new_empty(prob.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*smooth_backward(grad, *ctx.saved_tensors), None)


smooth.register_autograd(differentiate, setup_context=save)


def ema(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    """zbar_i = P_i z_i + (1-P_i) zbar_{i-1}, zero before each document (H-Net, arXiv 2507.07955, equation 5).

    P = clamp(prob, 1e-4, 1 - 1e-4), at a document's first chunk too. Exact for any P.

    Args:
        z: (M,D) chunks.
        prob: (M,) boundary probability of every chunk.
        cu_seqlens: (B+1,) int32, of chunks.

    Returns:
        (M,D) in z's dtype. Half precision is computed in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to M.
    """
    (wide,) = widen(z)
    return smooth(wide, prob.to(wide.dtype), cu_seqlens).to(z.dtype)
