"""Causal attention over packed documents, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import segment_ids


def full_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor) -> Tensor:
    bounds = cu_seqlens.tolist()
    outputs = []
    for start, stop in zip(bounds, bounds[1:], strict=False):
        part = [t[start:stop].transpose(0, 1)[None] for t in (q, k, v)]
        outputs.append(F.scaled_dot_product_attention(*part, is_causal=True)[0].transpose(0, 1))
    return torch.cat(outputs)


def window_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> Tensor:
    num_units, num_heads, width = q.shape
    block = max(window, 16)
    num_blocks = -(-num_units // block)
    pad = num_blocks * block - num_units
    segments = F.pad(segment_ids(cu_seqlens, num_units), (block, pad), value=-1)
    q = F.pad(q, (0, 0, 0, 0, 0, pad)).view(num_blocks, block, num_heads, width)
    k, v = (F.pad(t, (0, 0, 0, 0, block, pad)) for t in (k, v))
    rows = torch.arange(num_blocks * block, device=q.device).view(num_blocks, block, 1)
    starts = torch.arange(num_blocks, device=q.device)[:, None, None] * block
    keys = starts - block + torch.arange(2 * block, device=q.device)
    same = segments.unfold(0, 2 * block, block)[:, None, :] == segments[block:].view(num_blocks, block, 1)
    mask = same & (keys <= rows) & (keys >= rows - window)
    k, v = (t.unfold(0, 2 * block, block).permute(0, 1, 3, 2) for t in (k, v))
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask[:, None])
    return out.transpose(1, 2).reshape(-1, num_heads, width)[:num_units]


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, *, window: int = -1) -> Tensor:
    if window < 0:
        return full_attention(q, k, v, cu_seqlens)
    return window_attention(q, k, v, cu_seqlens, window)
