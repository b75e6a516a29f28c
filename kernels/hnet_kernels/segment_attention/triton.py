"""Attention between units and their chunk: one program reads one chunk, for a block of heads, once.

Tiles are loaded as (rows, group, lanes): rows are units, the group is the queries or keys of a chunk, and lanes are
the elements of a block of heads, which are contiguous. They are computed with as (rows, group, heads, elements). A
lane holds the same 16 bytes of every row and of every member of the group, so that sums over rows and over the group
stay in its registers and sums over a head stay in its warp. That heads and elements are one axis in memory leaves the
compiler no other choice.
"""

import math
from collections.abc import Mapping

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2))


@triton.jit
def _chunk_and_head(HEADS: tl.constexpr, HEAD_BLOCK: tl.constexpr):
    """Neighbouring programs read neighbouring heads of one chunk: a row's bytes are fetched at about one time."""
    blocks: tl.constexpr = (HEADS + HEAD_BLOCK - 1) // HEAD_BLOCK
    program = tl.program_id(0)
    return (program // blocks).to(tl.int64), (program % blocks) * HEAD_BLOCK


@triton.jit
def _lanes(head, HEADS: tl.constexpr, WIDTH: tl.constexpr, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr):
    """Offset of every lane in a row of H*P elements, and whether there is such an element."""
    lane = tl.arange(0, HEAD_BLOCK * WIDTH_BLOCK)[None, None, :]
    h = head + lane // WIDTH_BLOCK
    p = lane % WIDTH_BLOCK
    return h * WIDTH + p, (h < HEADS) & (p < WIDTH)


@triton.jit
def _load(pointers, mask, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr):
    """(rows, group, heads, elements) in float32; zero where masked."""
    x = tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    return tl.reshape(x, (x.shape[0], x.shape[1], HEAD_BLOCK, WIDTH_BLOCK))


@triton.jit
def _store(pointers, x, mask):
    tl.store(pointers, tl.reshape(x, (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])), mask=mask)


@triton.jit
def pool_kernel(
    q_ptr, k_ptr, v_ptr, offsets_ptr, out_ptr, logsumexp_ptr, q_stride, k_stride, v_stride, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_BLOCK: tl.constexpr, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
):  # fmt: skip
    j, head = _chunk_and_head(HEADS, HEAD_BLOCK)
    lane, is_lane = _lanes(head, HEADS, WIDTH, HEAD_BLOCK, WIDTH_BLOCK)
    row = tl.arange(0, ROWS)
    member = tl.arange(0, GROUP_BLOCK)[None, :, None]
    chunk_at = member * (HEADS * WIDTH) + lane
    in_chunk = is_lane & (member < GROUP)
    start = tl.load(offsets_ptr + j)
    stop = tl.load(offsets_ptr + j + 1)
    q = _load(q_ptr + j * q_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK) * (scale * LOG2E)
    highest = tl.full((1, GROUP_BLOCK, HEAD_BLOCK, 1), float("-inf"), tl.float32)
    total = tl.zeros((1, GROUP_BLOCK, HEAD_BLOCK, 1), tl.float32)
    out = tl.zeros((1, GROUP_BLOCK, HEAD_BLOCK, WIDTH_BLOCK), tl.float32)
    for first in range(start, stop, ROWS):
        t = tl.cast(first, tl.int64)
        here = is_lane & (row < stop - first)[:, None, None]
        k = _load(k_ptr + t * k_stride + (row[:, None, None] * k_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
        v = _load(v_ptr + t * v_stride + (row[:, None, None] * v_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
        score = tl.sum(q * k, 3, keep_dims=True)
        score = tl.where((row < stop - first)[:, None, None, None], score, float("-inf"))
        # Finite from the first iteration on, because every iteration has a row.
        new = tl.maximum(highest, tl.max(score, 0, keep_dims=True))
        weight = tl.exp2(score - new)
        shrink = tl.exp2(highest - new)
        out = out * shrink + tl.sum(weight * v, 0, keep_dims=True)
        total = total * shrink + tl.sum(weight, 0, keep_dims=True)
        highest = new
    _store(out_ptr + j * (GROUP * HEADS * WIDTH) + chunk_at, out / total, in_chunk)
    h = head + tl.arange(0, HEAD_BLOCK)[None, None, :]
    logsumexp = tl.reshape((highest + tl.log2(total)) * LN2, (1, GROUP_BLOCK, HEAD_BLOCK))
    scalar_at = j * (GROUP * HEADS) + member * HEADS + h
    tl.store(logsumexp_ptr + scalar_at, logsumexp, mask=(member < GROUP) & (h < HEADS))


@triton.jit
def pool_backward_kernel(
    grad_ptr, q_ptr, k_ptr, v_ptr, offsets_ptr, out_ptr, logsumexp_ptr, dq_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_BLOCK: tl.constexpr, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
):  # fmt: skip
    j, head = _chunk_and_head(HEADS, HEAD_BLOCK)
    lane, is_lane = _lanes(head, HEADS, WIDTH, HEAD_BLOCK, WIDTH_BLOCK)
    row = tl.arange(0, ROWS)
    member = tl.arange(0, GROUP_BLOCK)[None, :, None]
    chunk_at = member * (HEADS * WIDTH) + lane
    in_chunk = is_lane & (member < GROUP)
    start = tl.load(offsets_ptr + j)
    stop = tl.load(offsets_ptr + j + 1)
    base = j * (GROUP * HEADS * WIDTH)
    q = _load(q_ptr + j * q_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
    grad = _load(grad_ptr + base + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
    out = _load(out_ptr + base + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
    delta = tl.sum(out * grad, 3, keep_dims=True)
    h = head + tl.arange(0, HEAD_BLOCK)[None, None, :]
    scalar_at = j * (GROUP * HEADS) + member * HEADS + h
    # Infinity makes the weights of padded members zero.
    logsumexp = tl.load(logsumexp_ptr + scalar_at, mask=(member < GROUP) & (h < HEADS), other=float("inf")) * LOG2E
    logsumexp = tl.reshape(logsumexp, (1, GROUP_BLOCK, HEAD_BLOCK, 1))
    dq = tl.zeros((1, GROUP_BLOCK, HEAD_BLOCK, WIDTH_BLOCK), tl.float32)
    for first in range(start, stop, ROWS):
        t = tl.cast(first, tl.int64)
        here = is_lane & (row < stop - first)[:, None, None]
        # Both loads come before the stores, which the compiler must not move them across.
        k = _load(k_ptr + t * k_stride + (row[:, None, None] * k_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
        v = _load(v_ptr + t * v_stride + (row[:, None, None] * v_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
        score = tl.sum(q * k, 3, keep_dims=True) * (scale * LOG2E)
        # Rows past the end have k = v = 0 and add nothing, if only their weight is finite; of others it is at most 1.
        weight = tl.exp2(tl.minimum(score - logsumexp, 0.0, propagate_nan=tl.PropagateNan.ALL))
        dscore = weight * (tl.sum(grad * v, 3, keep_dims=True) - delta) * scale
        unit_at = t * (HEADS * WIDTH) + (row[:, None, None] * (HEADS * WIDTH) + lane)
        _store(dv_ptr + unit_at, tl.sum(weight * grad, 1, keep_dims=True), here)
        _store(dk_ptr + unit_at, tl.sum(dscore * q, 1, keep_dims=True), here)
        dq += tl.sum(dscore * k, 0, keep_dims=True)
    _store(dq_ptr + base + chunk_at, dq, in_chunk)


@triton.jit
def _zero_outside(
    out_ptr, offsets_ptr, worker, workers, num_chunks, num_units, lane, is_lane, ROW: tl.constexpr, ROWS: tl.constexpr
):
    """Zeros for the units before the first chunk and after the last."""
    row = tl.arange(0, ROWS)[:, None, None]
    before = tl.load(offsets_ptr)
    after = tl.load(offsets_ptr + num_chunks)
    for first in range(worker * ROWS, before, workers * ROWS):
        here = is_lane & (row < before - first)
        tl.store(out_ptr + tl.cast(first, tl.int64) * ROW + (row * ROW + lane), 0.0, mask=here)
    for first in range(after + worker * ROWS, num_units, workers * ROWS):
        here = is_lane & (row < num_units - first)
        tl.store(out_ptr + tl.cast(first, tl.int64) * ROW + (row * ROW + lane), 0.0, mask=here)


@triton.jit(do_not_specialize=["num_chunks", "num_units", "workers"])
def unpool_kernel(
    q_ptr, k_ptr, v_ptr, offsets_ptr, out_ptr, q_stride, k_stride, v_stride, num_chunks, num_units, workers, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_BLOCK: tl.constexpr, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
):  # fmt: skip
    """Programs past the last chunk write zeros."""
    j, head = _chunk_and_head(HEADS, HEAD_BLOCK)
    lane, is_lane = _lanes(head, HEADS, WIDTH, HEAD_BLOCK, WIDTH_BLOCK)
    if j >= num_chunks:
        worker = (j - num_chunks).to(tl.int32)
        _zero_outside(
            out_ptr, offsets_ptr, worker, workers, num_chunks, num_units, lane, is_lane, HEADS * WIDTH, ROWS
        )  # fmt: skip
    else:
        row = tl.arange(0, ROWS)
        member = tl.arange(0, GROUP_BLOCK)[None, :, None]
        chunk_at = member * (HEADS * WIDTH) + lane
        in_chunk = is_lane & (member < GROUP)
        start = tl.load(offsets_ptr + j)
        stop = tl.load(offsets_ptr + j + 1)
        k = _load(k_ptr + j * k_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK) * (scale * LOG2E)
        v = _load(v_ptr + j * v_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
        is_key = (tl.arange(0, GROUP_BLOCK) < GROUP)[None, :, None, None]
        for first in range(start, stop, ROWS):
            t = tl.cast(first, tl.int64)
            here = is_lane & (row < stop - first)[:, None, None]
            q = _load(q_ptr + t * q_stride + (row[:, None, None] * q_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
            score = tl.where(is_key, tl.sum(q * k, 3, keep_dims=True), float("-inf"))
            weight = tl.exp2(score - tl.max(score, 1, keep_dims=True))
            out = tl.sum(weight * v, 1, keep_dims=True) / tl.sum(weight, 1, keep_dims=True)
            _store(out_ptr + t * (HEADS * WIDTH) + (row[:, None, None] * (HEADS * WIDTH) + lane), out, here)


@triton.jit(do_not_specialize=["num_chunks", "num_units", "workers"])
def unpool_backward_kernel(
    grad_ptr, q_ptr, k_ptr, v_ptr, offsets_ptr, dq_ptr, dk_ptr, dv_ptr,
    q_stride, k_stride, v_stride, num_chunks, num_units, workers, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, GROUP_BLOCK: tl.constexpr, HEAD_BLOCK: tl.constexpr, WIDTH_BLOCK: tl.constexpr,
):  # fmt: skip
    """A unit's softmax is over keys in registers: neither the output nor a log-sum-exp is read."""
    j, head = _chunk_and_head(HEADS, HEAD_BLOCK)
    lane, is_lane = _lanes(head, HEADS, WIDTH, HEAD_BLOCK, WIDTH_BLOCK)
    if j >= num_chunks:
        worker = (j - num_chunks).to(tl.int32)
        _zero_outside(dq_ptr, offsets_ptr, worker, workers, num_chunks, num_units, lane, is_lane, HEADS * WIDTH, ROWS)
    else:
        row = tl.arange(0, ROWS)
        member = tl.arange(0, GROUP_BLOCK)[None, :, None]
        chunk_at = member * (HEADS * WIDTH) + lane
        in_chunk = is_lane & (member < GROUP)
        start = tl.load(offsets_ptr + j)
        stop = tl.load(offsets_ptr + j + 1)
        k = _load(k_ptr + j * k_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
        v = _load(v_ptr + j * v_stride + chunk_at, in_chunk, HEAD_BLOCK, WIDTH_BLOCK)
        is_key = (tl.arange(0, GROUP_BLOCK) < GROUP)[None, :, None, None]
        dk = tl.zeros((1, GROUP_BLOCK, HEAD_BLOCK, WIDTH_BLOCK), tl.float32)
        dv = tl.zeros((1, GROUP_BLOCK, HEAD_BLOCK, WIDTH_BLOCK), tl.float32)
        for first in range(start, stop, ROWS):
            t = tl.cast(first, tl.int64)
            here = is_lane & (row < stop - first)[:, None, None]
            unit_at = t * (HEADS * WIDTH) + (row[:, None, None] * (HEADS * WIDTH) + lane)
            q = _load(q_ptr + t * q_stride + (row[:, None, None] * q_stride + lane), here, HEAD_BLOCK, WIDTH_BLOCK)
            grad = _load(grad_ptr + unit_at, here, HEAD_BLOCK, WIDTH_BLOCK)
            score = tl.where(is_key, tl.sum(q * k, 3, keep_dims=True) * (scale * LOG2E), float("-inf"))
            weight = tl.exp2(score - tl.max(score, 1, keep_dims=True))
            weight /= tl.sum(weight, 1, keep_dims=True)
            dweight = tl.sum(grad * v, 3, keep_dims=True)
            dscore = weight * (dweight - tl.sum(weight * dweight, 1, keep_dims=True)) * scale
            _store(dq_ptr + unit_at, tl.sum(dscore * k, 1, keep_dims=True), here)
            # A row past the end has q = grad = 0 and adds nothing.
            dk += tl.sum(dscore * q, 0, keep_dims=True)
            dv += tl.sum(weight * grad, 0, keep_dims=True)
        base = j * (GROUP * HEADS * WIDTH)
        _store(dk_ptr + base + chunk_at, dk, in_chunk)
        _store(dv_ptr + base + chunk_at, dv, in_chunk)


# Units per iteration by the number of queries or keys of a chunk, else 1. More of them keep more bytes in flight, and
# these are as many as fit into the registers of every target.
FORWARD_ROWS = {1: 4, 2: 4, 4: 2}
POOL_BACKWARD_ROWS = {1: 4, 2: 2, 4: 2}
UNPOOL_BACKWARD_ROWS = {1: 4, 2: 2}
# Zeros are written by this many programs at most, beside those of the chunks.
ZERO_PROGRAMS = 64


def blocks(
    group: int, heads: int, width: int, itemsize: int, rows: Mapping[int, int]
) -> tuple[dict[str, int], int, int]:
    """Constants of a launch with `group` queries or keys a chunk, its warps, and the programs of a chunk.

    A lane holds 16 bytes of a row, or fewer for large groups. A program has up to four warps, and of the blocks of
    heads that give it one to four the one that leaves the fewest heads masked.
    """
    lanes = 64 if torch.version.hip else 32
    group_block, width_block = triton.next_power_of_2(group), triton.next_power_of_2(width)
    per_warp = lanes * max(1, min(16 // itemsize, 32 // group_block))
    most = min(max(1, 4 * per_warp // width_block), triton.next_power_of_2(heads))
    least = min(max(1, per_warp // width_block), most)
    choices = [most >> shift for shift in range((most // least).bit_length())]
    head_block = min(choices, key=lambda block: triton.cdiv(heads, block) * block)
    num_warps = min(max(1, head_block * width_block // per_warp), 8)
    constants = {
        "GROUP": group,
        "HEADS": heads,
        "WIDTH": width,
        "ROWS": rows.get(group_block, 1),
        "GROUP_BLOCK": group_block,
        "HEAD_BLOCK": head_block,
        "WIDTH_BLOCK": width_block,
    }
    return constants, num_warps, triton.cdiv(heads, head_block)


def _rows(x: Tensor) -> Tensor:
    """x with contiguous rows; any stride between them, also 0, is kept."""
    return x if x[0].is_contiguous() else x.contiguous()


def _empty_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def pool_attention_forward(
    q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    num_chunks, group, heads, width = q.shape
    q, k, v, chunk_offsets = _rows(q), _rows(k), _rows(v), chunk_offsets.contiguous()
    out = _empty_like(q)
    logsumexp = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    constants, num_warps, programs = blocks(group, heads, width, q.element_size(), FORWARD_ROWS)
    pool_kernel[(num_chunks * programs,)](
        q, k, v, chunk_offsets, out, logsumexp, q.stride(0), k.stride(0), v.stride(0), scale,
        **constants, num_warps=num_warps,
    )  # fmt: skip
    return out, logsumexp


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
    num_chunks, group, heads, width = q.shape
    q, k, v, chunk_offsets = _rows(q), _rows(k), _rows(v), chunk_offsets.contiguous()
    dq, dk, dv = _empty_like(q), _empty_like(k), _empty_like(v)
    constants, num_warps, programs = blocks(group, heads, width, q.element_size(), POOL_BACKWARD_ROWS)
    pool_backward_kernel[(num_chunks * programs,)](
        grad.contiguous(), q, k, v, chunk_offsets, out, logsumexp, dq, dk, dv,
        q.stride(0), k.stride(0), v.stride(0), scale, **constants, num_warps=num_warps,
    )  # fmt: skip
    return dq, dk, dv


def unpool_attention_forward(q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float) -> Tensor:
    num_units, (num_chunks, group, heads, width) = q.shape[0], k.shape
    q, k, v, chunk_offsets = _rows(q), _rows(k), _rows(v), chunk_offsets.contiguous()
    out = _empty_like(q)
    constants, num_warps, programs = blocks(group, heads, width, q.element_size(), FORWARD_ROWS)
    # Every chunk has a unit, so at most T - M units are outside.
    workers = min(ZERO_PROGRAMS, triton.cdiv(num_units - num_chunks, constants["ROWS"]))
    unpool_kernel[((num_chunks + workers) * programs,)](
        q, k, v, chunk_offsets, out, q.stride(0), k.stride(0), v.stride(0), num_chunks, num_units, workers, scale,
        **constants, num_warps=num_warps,
    )  # fmt: skip
    return out


def unpool_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, chunk_offsets: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    num_units, (num_chunks, group, heads, width) = q.shape[0], k.shape
    q, k, v, chunk_offsets = _rows(q), _rows(k), _rows(v), chunk_offsets.contiguous()
    dq, dk, dv = _empty_like(q), _empty_like(k), _empty_like(v)
    constants, num_warps, programs = blocks(group, heads, width, q.element_size(), UNPOOL_BACKWARD_ROWS)
    workers = min(ZERO_PROGRAMS, triton.cdiv(num_units - num_chunks, constants["ROWS"]))
    unpool_backward_kernel[((num_chunks + workers) * programs,)](
        grad.contiguous(), q, k, v, chunk_offsets, dq, dk, dv, q.stride(0), k.stride(0), v.stride(0),
        num_chunks, num_units, workers, scale, **constants, num_warps=num_warps,
    )  # fmt: skip
    return dq, dk, dv
