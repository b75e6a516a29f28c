"""Attention over packed documents: the CPU op and the face over the libraries for accelerators."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import check_cu_seqlens, widen
from hnet_kernels.varlen_attention import reference
from hnet_kernels.varlen_attention.providers import face


@torch.library.custom_op("hnet::varlen_attention", mutates_args=(), device_types="cpu")
def attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool = True
) -> tuple[Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, q.shape[0])
    return reference.cpu_forward(q, k, v, cu_seqlens, window, causal)


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool = True) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[0], q.shape[1])


@torch.library.custom_op("hnet::varlen_attention_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    window: int,
    causal: bool,
    out: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.cpu_backward(grad, q, k, v, cu_seqlens, window, causal, out, logsumexp)


@attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    window: int,
    causal: bool,
    out: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, int, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], *output)
    ctx.window, ctx.causal = inputs[4:]
    ctx.mark_non_differentiable(output[1])


def differentiate(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, cu_seqlens, out, logsumexp = ctx.saved_tensors
    grads = attention_backward(grad, q, k, v, cu_seqlens, ctx.window, ctx.causal, out, logsumexp)
    return (*grads, None, None, None)


attention.register_autograd(differentiate, setup_context=save)


def check_heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless the shapes are (T,H,P), (T,Hkv,P), (T,Hkv,P) with Hkv dividing H."""
    num_units, num_heads, width = q.shape
    if k.shape != v.shape or k.shape[0] != num_units or k.shape[2] != width or num_heads % k.shape[1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q (T,H,P), k and v (T,Hkv,P) with Hkv dividing H are needed, got {shapes}")


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    *,
    window: int = -1,
    causal: bool = True,
    max_seqlen: int | None = None,
) -> Tensor:
    """Softmax attention inside every document, with scale 1/sqrt(P) (arXiv 1706.03762, equation 1).

    On a CPU our own op runs, on accelerators the first provider of `varlen_attention.providers` that is installed
    and suits the tensors; `hnet_kernels.providers.provider("varlen_attention", name)` chooses another.

    Args:
        q: (T,H,P); any stride between units.
        k, v: (T,Hkv,P), Hkv dividing H: query head h reads head h // (H / Hkv) (arXiv 2305.13245).
        cu_seqlens: (B+1,) int32.
        window: unit i sees units i-window..i (window + 1 of them), without `causal` i-window..i+window; -1: no bound.
        causal: no unit sees a later one.
        max_seqlen: units of the longest document, or more; libraries size their grids by it. Not given, it is measured
            once per pack, for which the host waits once; under torch.compile T is taken.

    Returns:
        (T,H,P) in q's dtype. On a CPU half precision is computed in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T, window < -1, or the heads do not fit.
    """
    if window < -1:
        raise ValueError(f"window must be -1 (all) or the number of earlier units seen, got {window}")
    check_heads(q, k, v)
    if face.wants(q):
        check_cu_seqlens(cu_seqlens, q.shape[0])
        out: Tensor = face(q, k, v, cu_seqlens, window, causal, max_seqlen)
        return out
    wide_q, wide_k, wide_v = widen(q, k, v)
    return attention(wide_q, wide_k, wide_v, cu_seqlens, window, causal)[0].to(q.dtype)
