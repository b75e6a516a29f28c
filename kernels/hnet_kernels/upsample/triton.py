"""Return from chunks to units, in Triton: walks along the units with the row of their chunk in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Units of a tile.
TILE = 128
# Units past its own end that a tile still walks to finish a chunk; longer chunks are summed tile by tile.
REACH = 256


@triton.jit
def load_chunks(index_ptr, first, high, last, COUNT: tl.constexpr):
    """The chunks of COUNT units; a unit past the end counts to the chunk before it, `last` at first."""
    chunks = ()
    for i in tl.static_range(COUNT):
        chunk = tl.maximum(tl.load(index_ptr + first + i, mask=first + i < high, other=-1), last)
        chunks += (chunk,)  # type: ignore[assignment]
        last = chunk
    return chunks


@triton.jit
def load_new_rows(zbar_ptr, chunks, last, d, D: tl.constexpr, COUNT: tl.constexpr):
    """The rows of chunks that begin among COUNT units; elsewhere no memory is touched. No load waits for another."""
    rows = ()
    for i in tl.static_range(COUNT):
        rows += (tl.load(zbar_ptr + chunks[i] * D + d, mask=(d < D) & (chunks[i] != last), other=0.0),)  # type: ignore[assignment]
        last = chunks[i]
    return rows


@triton.jit
def load_units(ptr, first, high, d, D: tl.constexpr, COUNT: tl.constexpr):
    rows = ()
    for i in tl.static_range(COUNT):
        t = first + i
        rows += (tl.load(ptr + tl.cast(t, tl.int64) * D + d, mask=(d < D) & (t < high), other=0.0),)  # type: ignore[assignment]
    return rows


@triton.jit(do_not_specialize=["num_units"])
def forward_kernel(
    zbar_ptr, index_ptr, residual_ptr, out_ptr, num_units, D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr
):
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    low = tl.program_id(0) // BLOCKS * TILE
    high = tl.minimum(low + TILE, num_units)
    d = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    row = tl.zeros((BLOCK,), tl.float32)
    last = tl.full((), -1, tl.int64)
    for first in range(low, high, 4):
        chunks = load_chunks(index_ptr, first, high, last, 4)
        rows = load_new_rows(zbar_ptr, chunks, last, d, D, 4)
        rest = load_units(residual_ptr, first, high, d, D, 4)
        for i in tl.static_range(4):
            row = tl.where(chunks[i] != last, rows[i].to(tl.float32), row)
            last = chunks[i]
            t = first + i
            tl.store(out_ptr + tl.cast(t, tl.int64) * D + d, row + rest[i].to(tl.float32), mask=(d < D) & (t < high))


@triton.jit
def chunk_at(index_ptr, offsets_ptr, t, TILE: tl.constexpr, REACH: tl.constexpr):
    """Of unit t: its chunk, where that begins and ends, and whether it is too long for the tile it begins in."""
    chunk = tl.load(index_ptr + t)
    begin = tl.load(offsets_ptr + chunk)
    end = tl.load(offsets_ptr + chunk + 1)
    return chunk, begin, end, end > (begin // TILE + 1) * TILE + REACH


@triton.jit
def walk(
    grad_ptr, zbar_ptr, index_ptr, dzbar_ptr, dconfidence_ptr, low, high, d, D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """dconfidence of units low to high-1, and dzbar of their chunks but the last: that one's sum is returned."""
    row = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    last = tl.full((), -1, tl.int64)
    for first in range(low, high, 4):
        chunks = load_chunks(index_ptr, first, high, last, 4)
        grads = load_units(grad_ptr, first, high, d, D, 4)
        rows = load_new_rows(zbar_ptr, chunks, last, d, D, 4)
        for i in tl.static_range(4):
            new = chunks[i] != last
            tl.store(dzbar_ptr + last * D + d, total, mask=(d < D) & new & (last >= 0))
            grad = grads[i].to(tl.float32)
            row = tl.where(new, rows[i].to(tl.float32), row)
            total = tl.where(new, 0.0, total) + grad
            last = chunks[i]
            tl.store(dconfidence_ptr + first + i, tl.sum(grad * row, 0), mask=first + i < high)
    return total, last


@triton.jit(do_not_specialize=["num_units"])
def backward_kernel(
    grad_ptr, zbar_ptr, index_ptr, offsets_ptr, dzbar_ptr, dconfidence_ptr, piece_ptr, num_units,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, REACH: tl.constexpr,
):  # fmt: skip
    """A tile owns the chunks that begin in it, to their ends, REACH units past its own end at most.

    What lies in it of a longer chunk that began before is summed into `piece` (tiles,D) float32. dconfidence
    (blocks of columns, T) holds the share of every block.
    """
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    tile = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    d = block * BLOCK + tl.arange(0, BLOCK)
    start = tile * TILE
    stop = tl.minimum(start + TILE, num_units)
    _, first_begin, first_end, first_long = chunk_at(index_ptr, offsets_ptr, start, TILE, REACH)
    _, _, last_end, last_long = chunk_at(index_ptr, offsets_ptr, stop - 1, TILE, REACH)
    dconfidence_ptr += tl.cast(block, tl.int64) * num_units

    continues = first_long & (first_begin < start)
    middle = tl.where(continues, tl.minimum(first_end, stop), start)
    total, _ = walk(grad_ptr, zbar_ptr, index_ptr, dzbar_ptr, dconfidence_ptr, start, middle, d, D, BLOCK)
    tl.store(piece_ptr + tl.cast(tile, tl.int64) * D + d, total, mask=(d < D) & continues)

    low = tl.where(continues | (first_begin == start), middle, first_end)
    high = tl.where(last_long, stop, last_end)
    total, last = walk(grad_ptr, zbar_ptr, index_ptr, dzbar_ptr, dconfidence_ptr, low, high, d, D, BLOCK)
    # A chunk that is too long is left to long_chunk_kernel.
    tl.store(dzbar_ptr + last * D + d, total, mask=(d < D) & (last >= 0) & (last_long == 0))


@triton.jit(do_not_specialize=["num_units"])
def long_chunk_kernel(
    grad_ptr, index_ptr, offsets_ptr, piece_ptr, dzbar_ptr, num_units,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr, REACH: tl.constexpr,
):  # fmt: skip
    """dzbar of a long chunk: its units in the tile where it begins, then the pieces of the tiles after."""
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    tile = tl.program_id(0) // BLOCKS
    d = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    stop = tl.minimum(tile * TILE + TILE, num_units)
    chunk, begin, end, long = chunk_at(index_ptr, offsets_ptr, stop - 1, TILE, REACH)
    begins_here = long & (begin >= tile * TILE)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(tl.where(begins_here, begin, stop), stop, 4):
        rows = load_units(grad_ptr, first, stop, d, D, 4)
        for i in tl.static_range(4):
            total += rows[i].to(tl.float32)
    last_tile = tl.where(begins_here, (end - 1) // TILE, tile)
    for first in range(tile + 1, last_tile + 1, 8):
        rows = load_units(piece_ptr, first, last_tile + 1, d, D, 8)
        for i in tl.static_range(8):
            total += rows[i]
    tl.store(dzbar_ptr + chunk * D + d, total, mask=(d < D) & begins_here)


def upsample_forward(zbar: Tensor, chunk_index: Tensor, residual: Tensor, out_dtype: torch.dtype) -> Tensor:
    zbar, chunk_index, residual = zbar.contiguous(), chunk_index.contiguous(), residual.contiguous()
    num_units, width = residual.shape
    out = torch.empty(residual.shape, dtype=out_dtype, device=residual.device)
    block = min(512, triton.next_power_of_2(width))
    # 16 bytes a thread of the widest operand, so that all of them are spread over the threads alike.
    itemsize = max(zbar.dtype.itemsize, residual.dtype.itemsize, out_dtype.itemsize)
    num_warps = max(1, block * itemsize // 512)
    grid = (triton.cdiv(num_units, TILE) * triton.cdiv(width, block),)
    shape = {"D": width, "BLOCK": block, "TILE": TILE}
    forward_kernel[grid](zbar, chunk_index, residual, out, num_units, **shape, num_warps=num_warps)
    return out


def backward_columns(width: int, grad: torch.dtype, zbar: torch.dtype) -> int:
    """Columns of one warp: two loads of 16 bytes a thread for each row, or one if it has to suit two dtypes."""
    columns = 1024 // zbar.itemsize if grad == zbar else 128
    return min(columns, triton.next_power_of_2(width))


def upsample_backward(
    grad: Tensor, zbar: Tensor, chunk_index: Tensor, chunk_offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    grad, zbar, chunk_index = grad.contiguous(), zbar.contiguous(), chunk_index.contiguous()
    num_units, width = grad.shape
    if chunk_offsets is None:
        every_chunk = torch.arange(zbar.shape[0] + 1, device=zbar.device)
        chunk_offsets = torch.searchsorted(chunk_index, every_chunk, out_int32=True)
    chunk_offsets = chunk_offsets.contiguous()
    block = backward_columns(width, grad.dtype, zbar.dtype)
    num_blocks = triton.cdiv(width, block)
    dzbar = torch.empty_like(zbar)
    num_tiles = triton.cdiv(num_units, TILE)
    shares = torch.empty(num_blocks, num_units, dtype=torch.float32, device=zbar.device)
    pieces = torch.empty(num_tiles, width, dtype=torch.float32, device=zbar.device)
    grid = (num_tiles * num_blocks,)
    shape = {"D": width, "BLOCK": block, "TILE": TILE, "REACH": REACH, "num_warps": 1}
    backward_kernel[grid](grad, zbar, chunk_index, chunk_offsets, dzbar, shares, pieces, num_units, **shape)
    long_chunk_kernel[grid](grad, chunk_index, chunk_offsets, pieces, dzbar, num_units, **shape)
    return dzbar, shares[0] if num_blocks == 1 else shares.sum(0)
