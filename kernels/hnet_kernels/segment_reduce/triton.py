"""Reduction of the units of every chunk: one program for a chunk and a block of columns; long chunks in pieces."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.tiles import row_tile

# Rows whose loads, or stores, are under way at once in one program.
UNROLL = 4
# Chunks of more units than this are shared by programs of this many units each.
PIECE = 512


@triton.jit
def merge(total, unit, x, x_unit, MAX: tl.constexpr):
    """A sum; or the greater and its unit. Strictly greater keeps the first of equals; the first NaN stays."""
    if MAX:
        better = (x > total) | ((x != x) & (total == total))
        return tl.where(better, x, total), tl.where(better, x_unit, unit)
    return total + x, unit


@triton.jit
def reduce_rows(
    x_ptr, order_ptr, start, stop, width, column, MAX: tl.constexpr, ORDERED: tl.constexpr, UNROLL: tl.constexpr
):
    """Sum, or maximum and its unit, of rows start to stop-1."""
    empty: tl.constexpr = float("-inf") if MAX else 0.0
    total = tl.full(column.shape, empty, tl.float32)
    unit = tl.zeros(column.shape, tl.int32) + start
    for t in range(start, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            row = tl.cast(t, tl.int64) + r
            inside = row < stop
            source = row
            if ORDERED:
                source = tl.load(order_ptr + row, mask=inside, other=0).to(tl.int64)
            x = tl.load(x_ptr + source * width + column, mask=(column < width) & inside, other=empty).to(tl.float32)
            total, unit = merge(total, unit, x, row.to(tl.int32), MAX)
    return total, unit


@triton.jit
def reduce_kernel(
    x_ptr,
    order_ptr,
    offsets_ptr,
    out_ptr,
    argmax_ptr,
    width,
    MAX: tl.constexpr,
    MEAN: tl.constexpr,
    ORDERED: tl.constexpr,
    UNROLL: tl.constexpr,
    PIECE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.load(offsets_ptr + j).to(tl.int32)
    end = tl.load(offsets_ptr + j + 1).to(tl.int32)
    short = end - start <= PIECE
    stop = tl.where(short, end, start)
    total, unit = reduce_rows(x_ptr, order_ptr, start, stop, width, column, MAX, ORDERED, UNROLL)
    if MEAN:
        total = total / (end - start).to(tl.float32)
    tl.store(out_ptr + j * width + column, total, mask=(column < width) & short)
    if MAX:
        tl.store(argmax_ptr + j * width + column, unit, mask=(column < width) & short)


@triton.jit
def chunk_of(offsets_ptr, t, num_chunks, search_steps):
    """The chunk of unit t, by bisection, and where it begins and ends."""
    low = num_chunks * 0
    high = num_chunks
    for _ in range(search_steps):
        middle = (low + high) // 2
        begun = tl.load(offsets_ptr + middle) <= t
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle)
    return low.to(tl.int64), tl.load(offsets_ptr + low).to(tl.int32), tl.load(offsets_ptr + low + 1).to(tl.int32)


@triton.jit(do_not_specialize=["num_chunks", "search_steps", "num_units"])
def pieces_kernel(
    x_ptr,
    order_ptr,
    offsets_ptr,
    piece_ptr,
    piece_unit_ptr,
    num_chunks,
    search_steps,
    num_units,
    width,
    MAX: tl.constexpr,
    ORDERED: tl.constexpr,
    UNROLL: tl.constexpr,
    PIECE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What lies in a tile of PIECE units of a long chunk that began before. Without one nothing is read or written."""
    tile = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start = tile * PIECE
    _, begin, end = chunk_of(offsets_ptr, start, num_chunks, search_steps)
    long = (end - begin > PIECE) & (begin < start)
    stop = tl.where(long, tl.minimum(tl.minimum(start + PIECE, num_units), end), start)
    total, unit = reduce_rows(x_ptr, order_ptr, start, stop, width, column, MAX, ORDERED, UNROLL)
    at = tl.cast(tile, tl.int64) * width + column
    tl.store(piece_ptr + at, total, mask=(column < width) & (start < stop))
    if MAX:
        tl.store(piece_unit_ptr + at, unit, mask=(column < width) & (start < stop))


@triton.jit(do_not_specialize=["num_chunks", "search_steps", "num_units"])
def long_kernel(
    x_ptr,
    order_ptr,
    offsets_ptr,
    piece_ptr,
    piece_unit_ptr,
    out_ptr,
    argmax_ptr,
    num_chunks,
    search_steps,
    num_units,
    width,
    MAX: tl.constexpr,
    MEAN: tl.constexpr,
    ORDERED: tl.constexpr,
    UNROLL: tl.constexpr,
    PIECE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The long chunk that begins in a tile: its units there, then the pieces of the tiles after."""
    tile = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tile_stop = tl.minimum(tile * PIECE + PIECE, num_units)
    _, begin, end = chunk_of(offsets_ptr, tile_stop - 1, num_chunks, search_steps)
    long = (end - begin > PIECE) & (begin >= tile * PIECE)
    start = tl.where(long, begin, tile_stop)
    total, unit = reduce_rows(x_ptr, order_ptr, start, tile_stop, width, column, MAX, ORDERED, UNROLL)
    last_tile = tl.where(long, (end - 1) // PIECE, tile)
    empty: tl.constexpr = float("-inf") if MAX else 0.0
    for first in range(tile + 1, last_tile + 1, UNROLL):
        for r in tl.static_range(UNROLL):
            other = tl.cast(first, tl.int64) + r
            lane = (column < width) & (other <= last_tile)
            piece = tl.load(piece_ptr + other * width + column, mask=lane, other=empty)
            piece_unit = unit
            if MAX:
                piece_unit = tl.load(piece_unit_ptr + other * width + column, mask=lane, other=0)
            total, unit = merge(total, unit, piece, piece_unit, MAX)
    # Looked up again, which is rare and cheap: registers do not hold it through the loops.
    j, begin, end = chunk_of(offsets_ptr, tile_stop - 1, num_chunks, search_steps)
    long = (end - begin > PIECE) & (begin >= tile * PIECE)
    if MEAN:
        total = total / (end - begin).to(tl.float32)
    tl.store(out_ptr + j * width + column, total, mask=(column < width) & long)
    if MAX:
        tl.store(argmax_ptr + j * width + column, unit, mask=(column < width) & long)


@triton.jit
def pick_kernel(x_ptr, offsets_ptr, out_ptr, width, LAST: tl.constexpr, COLUMNS: tl.constexpr):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    row = tl.load(offsets_ptr + j + LAST).to(tl.int64) - LAST
    tl.store(out_ptr + j * width + column, tl.load(x_ptr + row * width + column, mask=lane), mask=lane)


@triton.jit
def spread_rows(
    grad_ptr,
    argmax_ptr,
    dx_ptr,
    j,
    begin,
    end,
    start,
    stop,
    width,
    column,
    REDUCTION: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Write units start to stop-1 of chunk j: its gradient where it belongs, zeros elsewhere."""
    lane = (column < width) & (start < stop)
    grad = tl.load(grad_ptr + j * width + column, mask=lane, other=0.0).to(tl.float32)
    if REDUCTION == "mean":
        grad = grad / (end - begin).to(tl.float32)
    if REDUCTION == "max":
        receiver = tl.load(argmax_ptr + j * width + column, mask=lane, other=-1)
    elif REDUCTION == "first":
        receiver = tl.zeros(column.shape, tl.int32) + begin
    else:
        receiver = tl.zeros(column.shape, tl.int32) + end - 1
    for t in range(start, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            row = tl.cast(t, tl.int64) + r
            value = grad
            if REDUCTION == "max" or REDUCTION == "first" or REDUCTION == "last":
                value = tl.where(receiver == row, grad, 0.0)
            tl.store(dx_ptr + row * width + column, value, mask=(column < width) & (row < stop))


@triton.jit
def spread_kernel(
    grad_ptr,
    offsets_ptr,
    argmax_ptr,
    dx_ptr,
    width,
    REDUCTION: tl.constexpr,
    UNROLL: tl.constexpr,
    PIECE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    j = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(offsets_ptr + j).to(tl.int32)
    end = tl.load(offsets_ptr + j + 1).to(tl.int32)
    stop = tl.where(end - begin <= PIECE, end, begin)
    spread_rows(grad_ptr, argmax_ptr, dx_ptr, j, begin, end, begin, stop, width, column, REDUCTION, UNROLL)


@triton.jit(do_not_specialize=["num_chunks", "search_steps", "num_units"])
def spread_long_kernel(
    grad_ptr,
    offsets_ptr,
    argmax_ptr,
    dx_ptr,
    num_chunks,
    search_steps,
    num_units,
    width,
    REDUCTION: tl.constexpr,
    UNROLL: tl.constexpr,
    PIECE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The units of a tile that belong to long chunks: at most one that covers its first, one its last."""
    start = tl.program_id(0) * PIECE
    stop = tl.minimum(start + PIECE, num_units)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    j, begin, end = chunk_of(offsets_ptr, start, num_chunks, search_steps)
    high = tl.where(end - begin > PIECE, tl.minimum(end, stop), start)
    spread_rows(grad_ptr, argmax_ptr, dx_ptr, j, begin, end, start, high, width, column, REDUCTION, UNROLL)
    j, begin, end = chunk_of(offsets_ptr, stop - 1, num_chunks, search_steps)
    low = tl.where((end - begin > PIECE) & (begin > start), begin, stop)
    spread_rows(grad_ptr, argmax_ptr, dx_ptr, j, begin, end, low, stop, width, column, REDUCTION, UNROLL)


def blocks(width: int) -> tuple[int, dict[str, int]]:
    """Programs for a row, and columns and warps of each: 8 elements a thread."""
    columns = row_tile(width)[1]
    return triton.cdiv(width, columns), {"COLUMNS": columns, "num_warps": max(1, columns // 256), "UNROLL": UNROLL}


def reduce(x: Tensor, order: Tensor | None, offsets: Tensor, maximum: bool, mean: bool) -> tuple[Tensor, Tensor]:
    """The reduced rows (M,D) of x in `order`, if there is one, and for a maximum the units (M,D) that they are from."""
    x, offsets = x.contiguous(), offsets.contiguous()
    (num_units, width), num_chunks = x.shape, offsets.shape[0] - 1
    out = x.new_empty(num_chunks, width)
    argmax = x.new_empty(num_chunks if maximum else 0, width, dtype=torch.int32)
    across, config = blocks(width)
    modes = {"MAX": maximum, "ORDERED": order is not None, "PIECE": PIECE, **config}
    places = offsets if order is None else order
    reduce_kernel[(num_chunks, across)](x, places, offsets, out, argmax, width, MEAN=mean, **modes)
    # The host knows the number of units: where no chunk can be long, nobody looks for one.
    if num_units > PIECE:
        tiles = triton.cdiv(num_units, PIECE)
        piece = torch.empty(tiles, width, dtype=torch.float32, device=x.device)
        piece_unit = argmax.new_empty(tiles if maximum else 0, width)
        shape = num_chunks, num_chunks.bit_length(), num_units, width
        pieces_kernel[(tiles, across)](x, places, offsets, piece, piece_unit, *shape, **modes)
        long_kernel[(tiles, across)](x, places, offsets, piece, piece_unit, out, argmax, *shape, MEAN=mean, **modes)
    return out, argmax


def ordered_segment_sum(x: Tensor, order: Tensor, offsets: Tensor) -> Tensor:
    """(M,D): the sums, in float32, of x[order[offsets[j]]] to x[order[offsets[j+1] - 1]]."""
    return reduce(x, order, offsets, maximum=False, mean=False)[0]


def segment_reduce_forward(x: Tensor, chunk_offsets: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    if reduction in ("max", "mean", "sum"):
        return reduce(x, None, chunk_offsets, maximum=reduction == "max", mean=reduction == "mean")
    x, chunk_offsets = x.contiguous(), chunk_offsets.contiguous()
    out = x.new_empty(chunk_offsets.shape[0] - 1, x.shape[1])
    across, config = blocks(x.shape[1])
    shape = {"COLUMNS": config["COLUMNS"], "num_warps": config["num_warps"]}
    pick_kernel[(out.shape[0], across)](x, chunk_offsets, out, x.shape[1], LAST=int(reduction == "last"), **shape)
    return out, x.new_empty(0, x.shape[1], dtype=torch.int32)


def segment_reduce_backward(
    grad: Tensor, chunk_offsets: Tensor, argmax: Tensor, num_units: int, reduction: str
) -> Tensor:
    grad, chunk_offsets = grad.contiguous(), chunk_offsets.contiguous()
    num_chunks, width = grad.shape
    dx = grad.new_empty(num_units, width)
    across, config = blocks(width)
    modes = {"REDUCTION": reduction, "PIECE": PIECE, **config}
    spread_kernel[(num_chunks, across)](grad, chunk_offsets, argmax, dx, width, **modes)
    if num_units > PIECE:
        shape = num_chunks, num_chunks.bit_length(), num_units, width
        tiles = triton.cdiv(num_units, PIECE)
        spread_long_kernel[(tiles, across)](grad, chunk_offsets, argmax, dx, *shape, **modes)
    return dx
