"""Boundary probabilities and decisions of the H-Net router."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_cu_seqlens

Saved = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Routing(NamedTuple):
    """What the router says of T units; float64 for float64 inputs, else float32."""

    prob: Tensor
    """(T,) boundary probability."""
    mask: Tensor
    """(T,) bool, prob > 0.5."""
    confidence: Tensor
    """(T,) probability of the decision taken."""
    prob_sum: Tensor
    """() sum of prob; over T it is G of the ratio loss."""
    num_boundaries: Tensor
    """() int64; over T it is F of the ratio loss."""


@torch.library.custom_op("hnet::route", mutates_args=())
def probabilities(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> Saved:
    check_cu_seqlens(cu_seqlens, q.shape[0])
    result: Saved = implementation("route", q).route_forward(q, k, cu_seqlens)
    return result


@probabilities.register_fake
def _(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> Saved:
    dtype = torch.promote_types(q.dtype, torch.float32)
    prob, confidence, cosine, q_norm, k_norm = (q.new_empty(q.shape[0], dtype=dtype) for _ in range(5))
    mask, count = prob.new_empty(q.shape[0], dtype=torch.bool), prob.new_empty((), dtype=torch.int64)
    return prob, mask, confidence, prob.new_empty(()), count, cosine, q_norm, k_norm


@torch.library.custom_op("hnet::route_backward", mutates_args=())
def route_backward(
    dprob: Tensor,
    dconfidence: Tensor,
    dsum: Tensor,
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens: Tensor,
    cosine: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = implementation("route", q).route_backward(
        dprob, dconfidence, dsum, mask, q, k, cu_seqlens, cosine, q_norm, k_norm
    )
    return result


@route_backward.register_fake
def _(
    dprob: Tensor,
    dconfidence: Tensor,
    dsum: Tensor,
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens: Tensor,
    cosine: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Saved) -> None:
    mask, cosine, q_norm, k_norm = output[1], *output[5:]
    ctx.save_for_backward(mask, *inputs, cosine, q_norm, k_norm)
    ctx.mark_non_differentiable(mask, output[4], cosine, q_norm, k_norm)


def differentiate(
    ctx: Any, dprob: Tensor, _: None, dconfidence: Tensor, dsum: Tensor, *__: None
) -> tuple[Tensor | None, ...]:
    return (*route_backward(dprob, dconfidence, dsum, *ctx.saved_tensors), None)


probabilities.register_autograd(differentiate, setup_context=save)


def route(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> Routing:
    """Boundary probability and decision of every unit (H-Net, arXiv 2507.07955, equation 4).

    p_t = clamp((1 - cos(q_{t-1}, k_t)) / 2, 0, 1) inside a document, 1 at its first unit. The query is
    the previous unit's, as in the released models (the paper's text has the roles the other way round).
    p = 1/2 exactly is no boundary. Half precision is computed in float32.

    Args:
        q, k: (T,D), both at their own position.
        cu_seqlens: (B+1,) int32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T.
    """
    return Routing(*probabilities(q, k, cu_seqlens)[:5])
