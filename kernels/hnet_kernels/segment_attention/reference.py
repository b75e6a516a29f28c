"""Attention between units and their chunk by segment operations, in plain PyTorch.

q, k and v are float32 or wider inside; memory beyond the results is linear in T.
"""

import torch
from torch import Tensor

from hnet_kernels.packed import row_blocks, widen


def locate(chunk_offsets: Tensor, num_units: int) -> tuple[Tensor, Tensor]:
    """(chunk (T,) int64, inside (T,) bool): the chunk of every unit, any chunk for a unit outside of all."""
    units = torch.arange(num_units, device=chunk_offsets.device, dtype=chunk_offsets.dtype)
    inside = (units >= chunk_offsets[0]) & (units < chunk_offsets[-1])
    index = torch.searchsorted(chunk_offsets.contiguous(), units, right=True) - 1
    return index.clamp_(0, chunk_offsets.numel() - 2), inside


def pool_attention_forward(
    q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Output (M,Q,H,P) in q's dtype, and the log-sum-exp of the scores (M,Q,H)."""
    dtype = q.dtype
    q, k, v = widen(q, k, v)
    num_units = k.shape[0]
    chunk, _ = locate(chunk_offsets, num_units)
    blocks = row_blocks(num_units, q[0].numel())
    score = q.new_empty(num_units, *q.shape[1:3])
    for a, b in blocks:
        torch.sum(q.index_select(0, chunk[a:b]).mul_(k[a:b, None]), -1, out=score[a:b])
    score *= scale
    by_chunk = chunk[:, None, None].expand_as(score)
    highest = torch.full_like(q[..., 0], -torch.inf).scatter_reduce_(0, by_chunk, score, "amax")
    weight = score.sub_(highest.index_select(0, chunk)).exp_()
    total = torch.zeros_like(highest).index_add_(0, chunk, weight)
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    for a, b in blocks:
        out.index_add_(0, chunk[a:b], weight[a:b, ..., None] * v[a:b, None])
    return out.div_(total[..., None]).to(dtype), highest + total.log()


def pool_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    chunk_offsets: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in their dtype."""
    dtype = q.dtype
    grad, q, k, v, out = widen(grad, q, k, v, out)
    chunk, _ = locate(chunk_offsets, k.shape[0])
    delta = (grad * out).sum(-1)
    dq = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    for a, b in row_blocks(k.shape[0], q[0].numel()):
        rows = chunk[a:b]
        queries, grads = q.index_select(0, rows), grad.index_select(0, rows)
        score = (queries * k[a:b, None]).sum(-1) * scale
        weight = score.sub_(logsumexp.index_select(0, rows)).exp_()
        dscore = (grads * v[a:b, None]).sum(-1).sub_(delta.index_select(0, rows)).mul_(weight).mul_(scale)
        torch.sum(grads.mul_(weight[..., None]), 1, out=dv[a:b])
        torch.sum(queries.mul_(dscore[..., None]), 1, out=dk[a:b])
        dq.index_add_(0, rows, dscore[..., None] * k[a:b, None])
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)


def unpool_attention_forward(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Tensor:
    """Output (T,H,P) in q's dtype; zero outside of the chunks."""
    chunk, inside = locate(chunk_offsets, q.shape[0])
    dtype = q.dtype
    q, k, v = widen(q, k, v)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for a, b in row_blocks(q.shape[0], k[0].numel()):
        rows = chunk[a:b]
        weight = (k.index_select(0, rows).mul_(q[a:b, None]).sum(-1) * scale).softmax(1)
        torch.sum(v.index_select(0, rows).mul_(weight[..., None]), 1, out=out[a:b])
    return out.masked_fill_(~inside[:, None, None], 0).to(dtype)


def unpool_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in their dtype."""
    dtype = q.dtype
    grad, q, k, v = widen(grad, q, k, v)
    chunk, inside = locate(chunk_offsets, q.shape[0])
    outside = ~inside[:, None, None]
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.zeros(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    for a, b in row_blocks(q.shape[0], k[0].numel()):
        rows = chunk[a:b]
        # Filled, not multiplied, with zero: a unit outside may hold anything.
        queries, grads = (x[a:b].masked_fill(outside[a:b], 0)[:, None] for x in (q, grad))
        keys = k.index_select(0, rows)
        weight = ((queries * keys).sum(-1) * scale).softmax(1)
        dweight = (grads * v.index_select(0, rows)).sum(-1)
        dscore = (dweight - (weight * dweight).sum(1, keepdim=True)).mul_(weight).mul_(scale)[..., None]
        torch.sum(keys.mul_(dscore), 1, out=dq[a:b])
        dk.index_add_(0, rows, dscore * queries)
        dv.index_add_(0, rows, weight[..., None] * grads)
    return dq.masked_fill_(outside, 0).to(dtype), dk.to(dtype), dv.to(dtype)
