"""Cross-attention between units and their chunk: pooling (chunks look at units) and unpooling (units at chunks)."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_chunk_offsets

Pooled = tuple[Tensor, Tensor]
Grads = tuple[Tensor, Tensor, Tensor]


def check(units: list[Tensor], chunks: list[Tensor], chunk_offsets: Tensor, whole: bool) -> None:
    """Raise ValueError unless shapes, dtypes and offsets fit; `whole`: every unit must be in a chunk.

    The values of the offsets are looked at on a CPU only: on an accelerator that would stop the stream.
    """
    heads = tuple(units[0].shape[1:])
    if len(heads) != 2 or any(x.shape != units[0].shape for x in units):
        raise ValueError(f"tensors of units must have one shape (T,H,P), got {[tuple(x.shape) for x in units]}")
    if chunks[0].dim() != 4 or any(x.shape != chunks[0].shape or tuple(x.shape[2:]) != heads for x in chunks):
        raise ValueError(
            f"tensors of chunks must have one shape (M,n,{heads[0]},{heads[1]}), n queries or keys of each chunk, "
            f"got {[tuple(x.shape) for x in chunks]}"
        )
    if len({x.dtype for x in units + chunks}) != 1:
        raise ValueError(f"q, k and v must have one dtype, got {[x.dtype for x in units + chunks]}")
    num_units, num_chunks = units[0].shape[0], chunks[0].shape[0]
    if chunk_offsets.shape != (num_chunks + 1,) or num_chunks == 0:
        raise ValueError(f"chunk_offsets must have shape ({num_chunks + 1},), got {tuple(chunk_offsets.shape)}")
    check_chunk_offsets(chunk_offsets, num_units, whole=whole)


@torch.library.custom_op("hnet::pool_attention", mutates_args=())
def pool(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Pooled:
    check([k, v], [q], chunk_offsets, whole=True)
    result: Pooled = implementation("segment_attention", q).pool_attention_forward(q, k, v, chunk_offsets, scale)
    return result


@pool.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Pooled:
    return q.new_empty(q.shape), q.new_empty(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))


@torch.library.custom_op("hnet::pool_attention_backward", mutates_args=())
def pool_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> Grads:
    result: Grads = implementation("segment_attention", q).pool_attention_backward(
        grad, q, k, v, chunk_offsets, out, logsumexp, scale
    )
    return result


@pool_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, out: Tensor, logsumexp: Tensor, scale: float
) -> Grads:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save_pool(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float], output: Pooled) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def differentiate_pool(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*pool_backward(grad, *ctx.saved_tensors, ctx.scale), None, None)


pool.register_autograd(differentiate_pool, setup_context=save_pool)


@torch.library.custom_op("hnet::unpool_attention", mutates_args=())
def unpool(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Tensor:
    check([q], [k, v], chunk_offsets, whole=False)
    result: Tensor = implementation("segment_attention", q).unpool_attention_forward(q, k, v, chunk_offsets, scale)
    return result


@unpool.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("hnet::unpool_attention_backward", mutates_args=())
def unpool_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Grads:
    result: Grads = implementation("segment_attention", q).unpool_attention_backward(
        grad, q, k, v, chunk_offsets, scale
    )
    return result


@unpool_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Grads:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def save_unpool(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def differentiate_unpool(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*unpool_backward(grad, *ctx.saved_tensors, ctx.scale), None, None)


unpool.register_autograd(differentiate_unpool, setup_context=save_unpool)


def pool_attention(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, *, scale: float | None = None) -> Tensor:
    """Queries of a chunk look at that chunk's units (BLT, arXiv 2412.09871, section 3.2, cross-attention).

    out[j,i,h] = sum_t softmax_t(scale * <q[j,i,h], k[t,h]>) v[t,h] over the units t of chunk j. The softmax is in
    float32, or float64 for float64 inputs.

    Args:
        q: (M,Q,H,P), Q queries a chunk; a learned query may be expanded over M without a copy.
        k, v: (T,H,P), in q's dtype; any stride between units.
        chunk_offsets: (M+1,) int32: chunk j is units chunk_offsets[j] to chunk_offsets[j+1] - 1.
        scale: 1/sqrt(P) if None.

    Returns:
        (M,Q,H,P) in q's dtype.

    Raises:
        ValueError: shapes or dtypes differ, or chunk_offsets does not rise strictly from 0 to T (seen on a CPU only).
    """
    result: Tensor = pool(q, k, v, chunk_offsets, q.shape[-1] ** -0.5 if scale is None else scale)[0]
    return result


def unpool_attention(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, *, scale: float | None = None) -> Tensor:
    """Units look at the keys of their chunk (BLT, arXiv 2412.09871, section 3.3, cross-attention).

    out[t,h] = sum_i softmax_i(scale * <q[t,h], k[j,i,h]>) v[j,i,h] over the K keys of the chunk j of unit t, in
    float32, or float64 for float64 inputs. A unit before chunk_offsets[0] or from chunk_offsets[M] on sees nothing:
    its output is zero, and so is its gradient, and what it holds is not read.

    Args:
        q: (T,H,P); any stride between units.
        k, v: (M,K,H,P), in q's dtype.
        chunk_offsets: (M+1,) int32: chunk j is seen by units chunk_offsets[j] to chunk_offsets[j+1] - 1.
        scale: 1/sqrt(P) if None.

    Returns:
        (T,H,P) in q's dtype.

    Raises:
        ValueError: shapes or dtypes differ, or chunk_offsets does not rise strictly within 0 to T (seen on a CPU only).
    """
    result: Tensor = unpool(q, k, v, chunk_offsets, q.shape[-1] ** -0.5 if scale is None else scale)
    return result
