"""Causal attention over packed documents, in plain PyTorch.

Full attention visits one document at a time. A window is cut into blocks of queries, each with the
keys that any of them sees, so that the work is linear in T whatever the documents' lengths; masks
inside the blocks keep documents apart. `attend` is the definition, and what runs on accelerators;
the `cpu_*` functions call PyTorch's flash kernels for CPUs with less copying around them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import segment_ids

QUERY_BLOCK = 32
flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def heads_first(t: Tensor) -> Tensor:
    """(..., L, H, P) as (..., H, L, P)."""
    return t.transpose(-2, -3)


def window_sizes(num_units: int, window: int) -> tuple[int, int, int]:
    """(queries of a block, keys of a block before its first query, number of blocks)."""
    block = min(QUERY_BLOCK, max(16, window))
    return block, -(-window // block) * block, -(-num_units // block)


def window_mask(cu_seqlens: Tensor, num_units: int, window: int) -> Tensor:
    """(num_blocks, queries, keys) bool, true where the query sees the key."""
    block, before, num_blocks = window_sizes(num_units, window)
    segments = F.pad(segment_ids(cu_seqlens, num_units), (before, num_blocks * block - num_units), value=-1)
    distance = torch.arange(block, device=cu_seqlens.device)[:, None] + before
    distance = distance - torch.arange(before + block, device=cu_seqlens.device)
    near = (distance >= 0) & (distance <= window)
    keys = segments.unfold(0, before + block, block)
    return near & (segments[before:].view(num_blocks, block, 1) == keys[:, None, :])


def key_blocks(t: Tensor, window: int) -> Tensor:
    """Overlapping views (num_blocks, H, keys, P) of keys or values (T,H,P)."""
    block, before, num_blocks = window_sizes(t.shape[0], window)
    padded = F.pad(t, (0, 0, 0, 0, before, num_blocks * block - t.shape[0]))
    return padded.unfold(0, before + block, block).transpose(-1, -2)


def query_blocks(t: Tensor, window: int) -> Tensor:
    """View (num_blocks, H, queries, P) of queries (T,H,P), padded with zeros if T is not a multiple of the block."""
    block, _, num_blocks = window_sizes(t.shape[0], window)
    if num_blocks * block > t.shape[0]:
        t = F.pad(t, (0, 0, 0, 0, 0, num_blocks * block - t.shape[0]))
    return heads_first(t.unflatten(0, (num_blocks, block)))


def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> Tensor:
    if window >= 0:
        mask = window_mask(cu_seqlens, q.shape[0], window)[:, None]
        keys, values = key_blocks(k, window), key_blocks(v, window)
        out = F.scaled_dot_product_attention(query_blocks(q, window), keys, values, attn_mask=mask)
        return heads_first(out).flatten(0, 1)[: q.shape[0]].contiguous()
    lengths = cu_seqlens.diff().tolist()
    documents = zip(*(heads_first(t).split(lengths, dim=1) for t in (q, k, v)), strict=True)
    parts = [F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0] for q, k, v in documents]
    return heads_first(torch.cat(parts, 1)).contiguous()


def document_runs(cu_seqlens: Tensor) -> list[tuple[int, int, int]]:
    """Runs of neighbouring documents of one length: (first unit, number of documents, length)."""
    runs: list[tuple[int, int, int]] = []
    bounds = cu_seqlens.tolist()
    for start, stop in zip(bounds, bounds[1:], strict=False):
        if runs and runs[-1][2] == stop - start:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1, stop - start)
        else:
            runs.append((start, 1, stop - start))
    return runs


def covers_documents(cu_seqlens: Tensor, window: int) -> bool:
    """Whether no document is longer than what its last unit sees."""
    return window < 0 or int(cu_seqlens.diff().max()) <= window + 1


def cpu_forward(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The output (T,H,P) and the log of every softmax's denominator (T,H)."""
    num_units, num_heads, _ = q.shape
    if not covers_documents(cu_seqlens, window):
        mask = additive(window_mask(cu_seqlens, num_units, window), q.dtype)
        blocks = query_blocks(q, window), key_blocks(k, window), key_blocks(v, window)
        out, logsumexp = flash(*blocks, attn_mask=mask)
        return (
            heads_first(out).flatten(0, 1)[:num_units].contiguous(),
            logsumexp.transpose(1, 2).reshape(-1, num_heads)[:num_units].contiguous(),
        )
    result = torch.empty(q.shape, dtype=q.dtype)
    denominators = result.new_empty(num_units, num_heads)
    for start, count, length in document_runs(cu_seqlens):
        rows, shape = slice(start, start + count * length), (count, length)
        out, logsumexp = flash(*(heads_first(t[rows].unflatten(0, shape)) for t in (q, k, v)), is_causal=True)
        result[rows].unflatten(0, shape).copy_(heads_first(out))
        denominators[rows].unflatten(0, shape).copy_(logsumexp.transpose(1, 2))
    return result, denominators


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(num_blocks, 1, queries, keys): 0 where `mask` is true, -inf elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)[:, None]


def cpu_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v."""
    if not covers_documents(cu_seqlens, window):
        return cpu_window_backward(grad, q, k, v, cu_seqlens, window, out, logsumexp)
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    for start, count, length in document_runs(cu_seqlens):
        rows, shape = slice(start, start + count * length), (count, length)
        tensors = [heads_first(t[rows].unflatten(0, shape)) for t in (grad, q, k, v, out)]
        denominators = logsumexp[rows].unflatten(0, shape).transpose(1, 2).contiguous()
        for result, part in zip((dq, dk, dv), flash_backward(*tensors, denominators, 0.0, True), strict=True):
            result[rows].unflatten(0, shape).copy_(heads_first(part))
    return dq, dk, dv


def cpu_window_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    num_units = q.shape[0]
    mask = additive(window_mask(cu_seqlens, num_units, window), q.dtype)
    grad, q, out = (query_blocks(t, window) for t in (grad, q, out))
    keys, values = key_blocks(k, window), key_blocks(v, window)
    denominators = query_blocks(logsumexp[..., None], window).squeeze(-1).contiguous()
    dq, dk, dv = flash_backward(grad, q, keys, values, out, denominators, 0.0, False, attn_mask=mask)
    dq = heads_first(dq).flatten(0, 1)[:num_units].contiguous()
    return dq, fold_keys(heads_first(dk), num_units, window), fold_keys(heads_first(dv), num_units, window)


def fold_keys(blocks: Tensor, num_units: int, window: int) -> Tensor:
    """Sum (num_blocks, keys, H, P) over the blocks that share a key: the transpose of `key_blocks`."""
    block, before, num_blocks = window_sizes(num_units, window)
    total = blocks.new_empty(num_blocks, block, *blocks.shape[2:])
    total.copy_(blocks[:, before:])
    for lag in range(1, min(before // block, num_blocks - 1) + 1):
        total[:-lag].add_(blocks[lag:, before - lag * block : before - (lag - 1) * block])
    return total.flatten(0, 1)[:num_units]
