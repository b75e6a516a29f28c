"""Attention over packed documents, in plain PyTorch.

Full attention visits one document at a time. A window is cut into blocks of queries, each with the
keys that any of them sees, so that the work is linear in T whatever the documents' lengths; masks
inside the blocks keep documents apart. `attend` is the definition, and the last resort of accelerators;
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


def with_heads(t: Tensor, num_heads: int) -> Tensor:
    """Keys or values (T,Hkv,P) repeated for the query heads that share them: (T,H,P)."""
    group = num_heads // t.shape[1]
    return t if group == 1 else t[:, :, None].expand(-1, -1, group, -1).flatten(1, 2)


def sum_heads(t: Tensor, num_heads: int) -> Tensor:
    """(T,H,P) summed over the query heads that share one of `num_heads` heads: the transpose of `with_heads`."""
    return t if t.shape[1] == num_heads else t.unflatten(1, (num_heads, -1)).sum(2)


class Window:
    """How T units are cut into blocks of queries, each with the keys from `before` ahead of it to `after` behind it."""

    def __init__(self, num_units: int, window: int, causal: bool) -> None:
        self.num_units, self.window, self.causal = num_units, window, causal
        self.block = min(QUERY_BLOCK, max(16, window))
        self.before = -(-window // self.block) * self.block
        self.after = 0 if causal else self.before
        self.num_blocks = -(-num_units // self.block)
        self.padding = self.num_blocks * self.block - num_units

    def mask(self, cu_seqlens: Tensor) -> Tensor:
        """(num_blocks, queries, keys) bool, true where the query sees the key."""
        block, before, after = self.block, self.before, self.after
        segments = F.pad(segment_ids(cu_seqlens, self.num_units), (before, self.padding + after), value=-1)
        distance = torch.arange(block, device=cu_seqlens.device)[:, None] + before
        distance = distance - torch.arange(before + block + after, device=cu_seqlens.device)
        near = (distance >= (0 if self.causal else -self.window)) & (distance <= self.window)
        queries = segments[before : before + self.num_blocks * block].view(self.num_blocks, block, 1)
        return near & (queries == segments.unfold(0, before + block + after, block)[:, None, :])

    def keys(self, t: Tensor) -> Tensor:
        """Overlapping views (num_blocks, H, keys, P) of keys or values (T,H,P)."""
        padded = F.pad(t, (0, 0, 0, 0, self.before, self.padding + self.after))
        return padded.unfold(0, self.before + self.block + self.after, self.block).transpose(-1, -2)

    def queries(self, t: Tensor) -> Tensor:
        """View (num_blocks, H, queries, P) of queries (T,H,P); zeros fill the last block up."""
        if self.padding:
            t = F.pad(t, (0, 0, 0, 0, 0, self.padding))
        return heads_first(t.unflatten(0, (self.num_blocks, self.block)))

    def packed(self, blocks: Tensor) -> Tensor:
        """(num_blocks, H, queries, P) as (T,H,P)."""
        return heads_first(blocks).flatten(0, 1)[: self.num_units].contiguous()

    def fold(self, blocks: Tensor) -> Tensor:
        """Sum (num_blocks, keys, H, P) over the blocks that share a key: the transpose of `keys`."""
        block, before = self.block, self.before
        total = blocks.new_empty(self.num_blocks, block, *blocks.shape[2:])
        total.copy_(blocks[:, before : before + block])
        for lag in range(1, min(before // block, self.num_blocks - 1) + 1):
            total[:-lag].add_(blocks[lag:, before - lag * block : before - (lag - 1) * block])
            if self.after:
                total[lag:].add_(blocks[:-lag, before + lag * block : before + (lag + 1) * block])
        return total.flatten(0, 1)[: self.num_units]


def attend(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool) -> Tensor:
    """(T,H,P) by differentiable calls on any device; without a window the host waits for the documents' lengths."""
    k, v = with_heads(k, q.shape[1]), with_heads(v, q.shape[1])
    if window >= 0:
        cut = Window(q.shape[0], window, causal)
        mask = cut.mask(cu_seqlens)[:, None]
        return cut.packed(F.scaled_dot_product_attention(cut.queries(q), cut.keys(k), cut.keys(v), attn_mask=mask))
    lengths = cu_seqlens.diff().tolist()
    documents = zip(*(heads_first(t).split(lengths, dim=1) for t in (q, k, v)), strict=True)
    parts = [F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=causal)[0] for q, k, v in documents]
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


def cpu_forward(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """The output (T,H,P) and the log of every softmax's denominator (T,H)."""
    num_units, num_heads, _ = q.shape
    k, v = with_heads(k, num_heads), with_heads(v, num_heads)
    if not covers_documents(cu_seqlens, window):
        cut = Window(num_units, window, causal)
        mask = additive(cut.mask(cu_seqlens), q.dtype)
        out, logsumexp = flash(cut.queries(q), cut.keys(k), cut.keys(v), attn_mask=mask)
        return cut.packed(out), logsumexp.transpose(1, 2).reshape(-1, num_heads)[:num_units].contiguous()
    result = torch.empty(q.shape, dtype=q.dtype)
    denominators = result.new_empty(num_units, num_heads)
    for start, count, length in document_runs(cu_seqlens):
        rows, shape = slice(start, start + count * length), (count, length)
        out, logsumexp = flash(*(heads_first(t[rows].unflatten(0, shape)) for t in (q, k, v)), is_causal=causal)
        result[rows].unflatten(0, shape).copy_(heads_first(out))
        denominators[rows].unflatten(0, shape).copy_(logsumexp.transpose(1, 2))
    return result, denominators


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(num_blocks, 1, queries, keys): 0 where `mask` is true, -inf elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)[:, None]


def cpu_backward(
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
    """Gradients of q, k, v."""
    shared = k.shape[1]
    k, v = with_heads(k, q.shape[1]), with_heads(v, q.shape[1])
    if covers_documents(cu_seqlens, window):
        dq, dk, dv = cpu_full_backward(grad, q, k, v, cu_seqlens, causal, out, logsumexp)
    else:
        cut = Window(q.shape[0], window, causal)
        mask = additive(cut.mask(cu_seqlens), q.dtype)
        denominators = cut.queries(logsumexp[..., None]).squeeze(-1).contiguous()
        blocks = cut.queries(grad), cut.queries(q), cut.keys(k), cut.keys(v), cut.queries(out)
        dq, dk, dv = flash_backward(*blocks, denominators, 0.0, False, attn_mask=mask)
        dq, dk, dv = cut.packed(dq), cut.fold(heads_first(dk)), cut.fold(heads_first(dv))
    return dq, sum_heads(dk, shared), sum_heads(dv, shared)


def cpu_full_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, causal: bool, out: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (torch.empty(q.shape, dtype=q.dtype) for _ in range(3))
    for start, count, length in document_runs(cu_seqlens):
        rows, shape = slice(start, start + count * length), (count, length)
        tensors = [heads_first(t[rows].unflatten(0, shape)) for t in (grad, q, k, v, out)]
        denominators = logsumexp[rows].unflatten(0, shape).transpose(1, 2).contiguous()
        for result, part in zip((dq, dk, dv), flash_backward(*tensors, denominators, 0.0, causal), strict=True):
            result[rows].unflatten(0, shape).copy_(heads_first(part))
    return dq, dk, dv
