"""Boundary probabilities of the H-Net router."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import check_cu_seqlens, widen
from hnet_kernels.route import reference


@torch.library.custom_op("hnet::route", mutates_args=())
def probabilities(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, q.shape[0])
    return reference.route_forward(q, k, cu_seqlens)


@probabilities.register_fake
def _(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(q.new_empty(q.shape[0]) for _ in range(4))  # type: ignore[return-value]


@torch.library.custom_op("hnet::route_backward", mutates_args=())
def route_backward(
    grad: Tensor, q: Tensor, k: Tensor, cu_seqlens: Tensor, cosine: Tensor, q_norm: Tensor, k_norm: Tensor
) -> tuple[Tensor, Tensor]:
    return reference.route_backward(grad, q, k, cu_seqlens, cosine, q_norm, k_norm)


@route_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, cu_seqlens: Tensor, cosine: Tensor, q_norm: Tensor, k_norm: Tensor
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*route_backward(grad, *ctx.saved_tensors), None)


probabilities.register_autograd(differentiate, setup_context=save)


def route(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """Boundary probability and decision of every unit (H-Net, arXiv 2507.07955, equation 4).

    p_t = clamp((1 - cos(q_{t-1}, k_t)) / 2, 0, 1) inside a document, 1 at its first unit. The query is
    the previous unit's, as in the released models (the paper's text has the roles the other way round).

    Args:
        q, k: (T,D), both at their own position.
        cu_seqlens: (B+1,) int32.

    Returns:
        boundary_prob (T,) float32 (float64 for float64 inputs) and boundary_mask (T,) bool = p > 0.5.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T.
    """
    wide_q, wide_k = widen(q, k)
    boundary_prob = probabilities(wide_q, wide_k, cu_seqlens)[0]
    return boundary_prob, boundary_prob > 0.5
