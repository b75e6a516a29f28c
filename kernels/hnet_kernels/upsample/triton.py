"""Return from chunks to units, in Triton: walks along the units with the row of their chunk in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Units of a tile.
TILE = 64


@triton.jit
def load_chunks(index_ptr, first, high, last, COUNT: tl.constexpr):
    """The chunks of COUNT units; a unit past the end counts to the chunk before it, `last` at first."""
    chunks = ()
    for i in tl.static_range(COUNT):
        chunk = tl.maximum(tl.load(index_ptr + first + i, mask=first + i < high, other=-1), last)
        chunks += (chunk,)
        last = chunk
    return chunks


@triton.jit
def load_new_rows(zbar_ptr, chunks, last, d, D: tl.constexpr, COUNT: tl.constexpr):
    """The rows of chunks that begin among COUNT units; elsewhere no memory is touched. No load waits for another."""
    rows = ()
    for i in tl.static_range(COUNT):
        rows += (tl.load(zbar_ptr + chunks[i] * D + d, mask=(d < D) & (chunks[i] != last), other=0.0),)
        last = chunks[i]
    return rows


@triton.jit
def load_units(ptr, first, high, d, D: tl.constexpr, COUNT: tl.constexpr):
    rows = ()
    for i in tl.static_range(COUNT):
        t = first + i
        rows += (tl.load(ptr + tl.cast(t, tl.int64) * D + d, mask=(d < D) & (t < high), other=0.0),)
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
def first_chunk_start(index_ptr, offsets_ptr, t, num_units):
    """The first unit from t on that begins a chunk; num_units if there is none."""
    chunk = tl.load(index_ptr + tl.minimum(t, num_units - 1))
    own = tl.load(offsets_ptr + chunk)
    return tl.where(own == t, own, tl.load(offsets_ptr + chunk + 1))


@triton.jit(do_not_specialize=["num_units"])
def backward_kernel(
    grad_ptr, zbar_ptr, index_ptr, offsets_ptr, dzbar_ptr, dconfidence_ptr, num_units,
    D: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """A tile owns the chunks that begin in it, to their ends. dconfidence (blocks of columns, T) holds shares."""
    BLOCKS: tl.constexpr = (D + BLOCK - 1) // BLOCK
    start = tl.program_id(0) // BLOCKS * TILE
    low = first_chunk_start(index_ptr, offsets_ptr, start, num_units)
    high = first_chunk_start(index_ptr, offsets_ptr, tl.minimum(start + TILE, num_units), num_units)
    block = tl.program_id(0) % BLOCKS
    d = block * BLOCK + tl.arange(0, BLOCK)
    share_ptr = dconfidence_ptr + tl.cast(block, tl.int64) * num_units
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
            tl.store(share_ptr + first + i, tl.sum(grad * row, 0), mask=first + i < high)
    tl.store(dzbar_ptr + last * D + d, total, mask=(d < D) & (last >= 0))


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
    block = backward_columns(width, grad.dtype, zbar.dtype)
    num_blocks = triton.cdiv(width, block)
    dzbar = torch.empty_like(zbar)
    shares = torch.empty(num_blocks, num_units, dtype=torch.float32, device=zbar.device)
    grid = (triton.cdiv(num_units, TILE) * num_blocks,)
    shape = {"D": width, "BLOCK": block, "TILE": TILE}
    backward_kernel[grid](grad, zbar, chunk_index, chunk_offsets, dzbar, shares, num_units, **shape, num_warps=1)
    return dzbar, shares[0] if num_blocks == 1 else shares.sum(0)
