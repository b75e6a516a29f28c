"""Exponential smoothing of chunks: the dechunking of H-Net before upsampling."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_cu_seqlens


@torch.library.custom_op("hnet::ema", mutates_args=())
def smooth(z: Tensor, prob: Tensor, cu_seqlens: Tensor, at_least_half: bool = False) -> Tensor:
    check_cu_seqlens(cu_seqlens, z.shape[0])
    return implementation("ema", z).ema_forward(z, prob, cu_seqlens, at_least_half)


@smooth.register_fake
def _(z: Tensor, prob: Tensor, cu_seqlens: Tensor, at_least_half: bool = False) -> Tensor:
    return z.new_empty(z.shape)


@torch.library.custom_op("hnet::ema_backward", mutates_args=())
def smooth_backward(
    grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor, at_least_half: bool
) -> tuple[Tensor, Tensor]:
    return implementation("ema", z).ema_backward(grad, z, prob, cu_seqlens, zbar, at_least_half)


@smooth_backward.register_fake
def _(
    grad: Tensor, z: Tensor, prob: Tensor, cu_seqlens: Tensor, zbar: Tensor, at_least_half: bool
) -> tuple[Tensor, Tensor]:
    return z.new_empty(z.shape), prob.new_empty(prob.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    *tensors, ctx.at_least_half = inputs
    ctx.save_for_backward(*tensors, output)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*smooth_backward(grad, *ctx.saved_tensors, ctx.at_least_half), None, None)


smooth.register_autograd(differentiate, setup_context=save)


def ema(z: Tensor, prob: Tensor, cu_seqlens: Tensor, *, at_least_half: bool = False) -> Tensor:
    """zbar_i = P_i z_i + (1-P_i) zbar_{i-1}, zero before each document (H-Net, arXiv 2507.07955, equation 5).

    P = clamp(prob, 1e-4, 1 - 1e-4), at a document's first chunk too. Exact for any P. The state after a
    document is its last row.

    Args:
        z: (M,D) chunks.
        prob: (M,) float32, boundary probability of every chunk. The clamp cuts its gradient.
        cu_seqlens: (B+1,) int32, of chunks.
        at_least_half: The caller's promise that prob >= 1/2 at every chunk that is not a document's first, as
            for learned boundaries. Then no chunk is felt 32 chunks later, and on a GPU one pass is enough.

    Returns:
        (M,D) in z's dtype. Half precision is computed in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to M.
    """
    return smooth(z, prob, cu_seqlens, at_least_half)
