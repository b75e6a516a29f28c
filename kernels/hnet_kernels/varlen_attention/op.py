"""Causal attention over packed documents."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import check_cu_seqlens, widen
from hnet_kernels.varlen_attention import reference


@torch.library.custom_op("hnet::varlen_attention", mutates_args=(), device_types="cpu")
def attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> tuple[Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, q.shape[0])
    return reference.cpu_forward(q, k, v, cu_seqlens, window)


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[1])


@torch.library.custom_op("hnet::varlen_attention_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.cpu_backward(grad, q, k, v, cu_seqlens, window, out, logsumexp)


@attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.window = inputs[4]
    ctx.mark_non_differentiable(output[1])


def differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, cu_seqlens, out, logsumexp = ctx.saved_tensors
    return (*attention_backward(grad, q, k, v, cu_seqlens, ctx.window, out, logsumexp), None, None)


attention.register_autograd(differentiate, setup_context=save)


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, *, window: int = -1) -> Tensor:
    """Causal softmax attention inside every document, with scale 1/sqrt(P).

    Args:
        q, k, v: (T,H,P); any stride between units.
        cu_seqlens: (B+1,) int32.
        window: unit i sees units i-window..i (window + 1 of them); -1 for all units before it.

    Returns:
        (T,H,P) in q's dtype. On a CPU half precision is computed in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T, or window < -1.
    """
    if window < -1:
        raise ValueError(f"window must be -1 (all) or the number of earlier units seen, got {window}")
    if q.is_cuda:
        check_cu_seqlens(cu_seqlens, q.shape[0])
        return reference.attend(q, k, v, cu_seqlens, window)
    wide_q, wide_k, wide_v = widen(q, k, v)
    return attention(wide_q, wide_k, wide_v, cu_seqlens, window)[0].to(q.dtype)
