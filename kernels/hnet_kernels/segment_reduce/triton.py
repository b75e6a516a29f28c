"""Reduction of the units of every chunk: one program for a chunk and a block of columns."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.tiles import row_tile

# Rows whose loads, or stores, are under way at once in one program.
UNROLL = 4


@triton.jit
def sum_kernel(
    x_ptr,
    order_ptr,
    offsets_ptr,
    out_ptr,
    width,
    MEAN: tl.constexpr,
    ORDERED: tl.constexpr,
    UNROLL: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    start = tl.load(offsets_ptr + j)
    stop = tl.load(offsets_ptr + j + 1)
    total = tl.zeros((COLUMNS,), tl.float32)
    for t in range(start, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            row = tl.cast(t, tl.int64) + r
            inside = row < stop
            if ORDERED:
                row = tl.load(order_ptr + row, mask=inside, other=0).to(tl.int64)
            total += tl.load(x_ptr + row * width + column, mask=lane & inside, other=0.0).to(tl.float32)
    if MEAN:
        total = total / (stop - start).to(tl.float32)
    tl.store(out_ptr + j * width + column, total, mask=lane)


@triton.jit
def max_kernel(x_ptr, offsets_ptr, out_ptr, argmax_ptr, width, UNROLL: tl.constexpr, COLUMNS: tl.constexpr):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    start = tl.load(offsets_ptr + j).to(tl.int32)
    stop = tl.load(offsets_ptr + j + 1).to(tl.int32)
    best = tl.full((COLUMNS,), float("-inf"), tl.float32)
    unit = tl.zeros((COLUMNS,), tl.int32) + start
    for t in range(start, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            row = tl.cast(t, tl.int64) + r
            x = tl.load(x_ptr + row * width + column, mask=lane & (row < stop), other=float("-inf")).to(tl.float32)
            # Strictly greater keeps the first of equals; the first NaN stays.
            better = (x > best) | ((x != x) & (best == best))
            best = tl.where(better, x, best)
            unit = tl.where(better, row.to(tl.int32), unit)
    tl.store(out_ptr + j * width + column, best, mask=lane)
    tl.store(argmax_ptr + j * width + column, unit, mask=lane)


@triton.jit
def pick_kernel(x_ptr, offsets_ptr, out_ptr, width, LAST: tl.constexpr, COLUMNS: tl.constexpr):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    row = tl.load(offsets_ptr + j + LAST).to(tl.int64) - LAST
    tl.store(out_ptr + j * width + column, tl.load(x_ptr + row * width + column, mask=lane), mask=lane)


@triton.jit
def spread_kernel(
    grad_ptr,
    offsets_ptr,
    argmax_ptr,
    dx_ptr,
    width,
    REDUCTION: tl.constexpr,
    UNROLL: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Every row of dx is written once: the chunk's gradient where it belongs, zeros elsewhere."""
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    start = tl.load(offsets_ptr + j).to(tl.int32)
    stop = tl.load(offsets_ptr + j + 1).to(tl.int32)
    grad = tl.load(grad_ptr + j * width + column, mask=lane, other=0.0).to(tl.float32)
    if REDUCTION == "mean":
        grad = grad / (stop - start).to(tl.float32)
    if REDUCTION == "max":
        receiver = tl.load(argmax_ptr + j * width + column, mask=lane, other=-1)
    elif REDUCTION == "first":
        receiver = tl.zeros((COLUMNS,), tl.int32) + start
    else:
        receiver = tl.zeros((COLUMNS,), tl.int32) + stop - 1
    for t in range(start, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            row = tl.cast(t, tl.int64) + r
            value = grad
            if REDUCTION == "max" or REDUCTION == "first" or REDUCTION == "last":
                value = tl.where(receiver == row, grad, 0.0)
            tl.store(dx_ptr + row * width + column, value, mask=lane & (row < stop))


def blocks(num_chunks: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Grid, and columns and warps of a program: 8 elements a thread."""
    columns = row_tile(width)[1]
    return (num_chunks, triton.cdiv(width, columns)), {"COLUMNS": columns, "num_warps": max(1, columns // 256)}


def ordered_segment_sum(x: Tensor, order: Tensor | None, offsets: Tensor, mean: bool = False) -> Tensor:
    """(M,D): the sums, in float32, of x[order[offsets[j]]] to x[order[offsets[j+1] - 1]]; without an order, of x."""
    x = x.contiguous()
    out = x.new_empty(offsets.shape[0] - 1, x.shape[1])
    grid, config = blocks(*out.shape)
    sum_kernel[grid](
        x,
        offsets if order is None else order,
        offsets,
        out,
        x.shape[1],
        MEAN=mean,
        ORDERED=order is not None,
        UNROLL=UNROLL,
        **config,
    )
    return out


def segment_reduce_forward(x: Tensor, chunk_offsets: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    num_chunks, width = chunk_offsets.shape[0] - 1, x.shape[1]
    grid, config = blocks(num_chunks, width)
    if reduction == "max":
        out = x.new_empty(num_chunks, width)
        argmax = x.new_empty(num_chunks, width, dtype=torch.int32)
        max_kernel[grid](x, chunk_offsets, out, argmax, width, UNROLL=UNROLL, **config)
        return out, argmax
    if reduction in ("first", "last"):
        out = x.new_empty(num_chunks, width)
        pick_kernel[grid](x, chunk_offsets, out, width, LAST=int(reduction == "last"), **config)
    else:
        out = ordered_segment_sum(x, None, chunk_offsets, mean=reduction == "mean")
    return out, x.new_empty(0, width, dtype=torch.int32)


def segment_reduce_backward(
    grad: Tensor, chunk_offsets: Tensor, argmax: Tensor, num_units: int, reduction: str
) -> Tensor:
    grad = grad.contiguous()
    dx = grad.new_empty(num_units, grad.shape[1])
    grid, config = blocks(*grad.shape)
    spread_kernel[grid](grad, chunk_offsets, argmax, dx, grad.shape[1], REDUCTION=reduction, UNROLL=UNROLL, **config)
    return dx
