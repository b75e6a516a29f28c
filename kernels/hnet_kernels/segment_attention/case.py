"""Pooling with one query a chunk, and unpooling with two keys a chunk, at any size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.packed import segment_ids
from hnet_kernels.segment_attention.op import pool_attention, unpool_attention

QUERIES, KEYS = 1, 2


def inputs(sizes: Sizes, group: int, pooling: bool) -> dict[str, Tensor]:
    heads = (sizes.num_heads, sizes.width // sizes.num_heads)
    units = sizes.randn(2 if pooling else 1, sizes.num_units, *heads)
    chunks = sizes.randn(1 if pooling else 2, sizes.num_chunks, group, *heads)
    q, k, v = (t.requires_grad_() for t in ([*chunks, *units] if pooling else [*units, *chunks]))
    return {"q": q, "k": k, "v": v, "chunk_offsets": sizes.chunk_offsets()}


def pool_floor(sizes: Sizes) -> tuple[int, int]:
    """Forward reads k, v, q and writes the output; backward reads those and its gradient and writes dk, dv, dq."""
    units, chunks = sizes.num_units * sizes.row_bytes, sizes.num_chunks * QUERIES * sizes.row_bytes
    return 2 * units + 2 * chunks, 4 * units + 4 * chunks


def unpool_floor(sizes: Sizes) -> tuple[int, int]:
    """Forward reads q, k, v and writes the output; backward reads q, k, v and the gradient and writes dq, dk, dv."""
    units, chunks = sizes.num_units * sizes.row_bytes, sizes.num_chunks * KEYS * sizes.row_bytes
    return 2 * units + 2 * chunks, 3 * units + 4 * chunks


def pool_eager(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor) -> Tensor:
    """Gather the queries to the units, softmax by segment operations, add the weighted values up."""
    chunk = segment_ids(chunk_offsets, k.shape[0])
    score = (q[chunk] * k[:, None]).sum(-1, dtype=torch.float32) * q.shape[-1] ** -0.5
    highest = torch.full_like(q[..., 0], -torch.inf, dtype=torch.float32).scatter_reduce(
        0, chunk[:, None, None].expand_as(score), score.detach(), "amax"
    )
    weight = (score - highest[chunk]).exp()
    total = torch.zeros_like(highest).index_add(0, chunk, weight)
    weight = (weight / total[chunk]).to(v.dtype)
    return torch.zeros_like(q).index_add(0, chunk, weight[..., None] * v[:, None])


def unpool_eager(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor) -> Tensor:
    """Gather the keys and values to the units."""
    chunk = segment_ids(chunk_offsets, q.shape[0])
    score = (q[:, None] * k[chunk]).sum(-1, dtype=torch.float32) * q.shape[-1] ** -0.5
    return (score.softmax(1).to(v.dtype)[..., None] * v[chunk]).sum(1)


def padded(chunk_offsets: Tensor, num_units: int) -> tuple[Tensor, Tensor, Tensor]:
    """(unit of a slot (M,L), whether the slot has one (M,L), slot of a unit (T,)); L is the longest length."""
    lengths = chunk_offsets.diff()
    slot = torch.arange(int(lengths.max()), device=chunk_offsets.device)
    used = slot < lengths[:, None]
    chunk = segment_ids(chunk_offsets, num_units)
    within = torch.arange(num_units, device=chunk.device) - chunk_offsets[chunk]
    return (chunk_offsets[:-1, None] + slot).clamp_max(num_units - 1), used, chunk * slot.numel() + within


def pool_padded(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor) -> Tensor:
    """Every chunk padded to the longest; one batched call of PyTorch's attention, padding masked."""
    index, used, _ = padded(chunk_offsets, k.shape[0])
    q, k, v = (t.transpose(1, 2) for t in (q, k[index], v[index]))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=used[:, None, None]).transpose(1, 2)


def unpool_padded(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor) -> Tensor:
    """The units of every chunk padded to the longest; one batched call, results of the padding dropped."""
    index, _, slot = padded(chunk_offsets, q.shape[0])
    q, k, v = (t.transpose(1, 2) for t in (q[index], k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)[slot]


CASES: tuple[Case, ...] = (
    Case(
        "pool_attention",
        lambda sizes: inputs(sizes, QUERIES, pooling=True),
        pool_attention,
        pool_floor,
        {"eager": pool_eager, "padded_sdpa": pool_padded},
    ),
    Case(
        "unpool_attention",
        lambda sizes: inputs(sizes, KEYS, pooling=False),
        unpool_attention,
        unpool_floor,
        {"eager": unpool_eager, "padded_sdpa": unpool_padded},
    ),
)
