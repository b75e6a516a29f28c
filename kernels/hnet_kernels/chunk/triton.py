"""Selection of the boundary units: a scan over the mask in two launches, and gather and scatter of rows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels import cuda
from hnet_kernels.tiles import row_tile

SCAN_BLOCK = 4096


@triton.jit
def count_kernel(mask_ptr, counts_ptr, num_units, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    boundary = tl.load(mask_ptr + t, mask=t < num_units, other=0).to(tl.int32)
    tl.store(counts_ptr + program, tl.sum(boundary, 0))


@triton.jit
def scan_kernel(mask_ptr, counts_ptr, index_ptr, offsets_ptr, num_units, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Every program adds up the counts of the blocks before it, which is less work than one more launch."""
    program = tl.program_id(0)
    lane = tl.arange(0, LANES)
    before = tl.zeros((LANES,), tl.int32)
    for start in range(0, program, LANES):
        before += tl.load(counts_ptr + start + lane, mask=start + lane < program, other=0)
    t = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = t < num_units
    boundary = tl.load(mask_ptr + t, mask=inside, other=0).to(tl.int32)
    count = tl.sum(before, 0) + tl.cumsum(boundary, 0)
    tl.store(index_ptr + t, (count - 1).to(tl.int64), mask=inside)
    tl.store(offsets_ptr + count - 1, t.to(tl.int32), mask=inside & (boundary > 0))
    last = t == num_units - 1
    tl.store(offsets_ptr + count, (t + 1).to(tl.int32), mask=last)


@triton.jit
def ends_kernel(cu_seqlens_ptr, index_ptr, chunk_cu_seqlens_ptr, num_bounds, BLOCK: tl.constexpr):
    """Document d's chunks end after the chunk of its last unit."""
    d = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = d < num_bounds
    stop = tl.load(cu_seqlens_ptr + d, mask=inside, other=0).to(tl.int64)
    index = tl.load(index_ptr + stop - 1, mask=inside & (stop > 0), other=-1)
    tl.store(chunk_cu_seqlens_ptr + d, (index + 1).to(tl.int32), mask=inside)


@triton.jit
def gather_kernel(
    x_ptr, positions_ptr, out_ptr, num_chunks, num_units, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = j < num_chunks
    t = tl.load(positions_ptr + j, mask=inside, other=0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = inside[:, None] & (column < width)[None, :]
    x = tl.load(x_ptr + t[:, None] * width + column[None, :], mask=lane & (t < num_units)[:, None], other=0.0)
    tl.store(out_ptr + j[:, None] * width + column[None, :], x, mask=lane)


@triton.jit
def scatter_kernel(
    grad_ptr, positions_ptr, index_ptr, out_ptr, num_units, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Every row of the result is written once: a chunk's gradient at its boundary unit, zeros elsewhere."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = t < num_units
    j = tl.load(index_ptr + t, mask=inside, other=0)
    boundary = inside & (tl.load(positions_ptr + j, mask=inside, other=-1) == t)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = (column < width)[None, :]
    grad = tl.load(grad_ptr + j[:, None] * width + column[None, :], mask=boundary[:, None] & lane, other=0.0)
    tl.store(out_ptr + t[:, None] * width + column[None, :], grad, mask=inside[:, None] & lane)


@triton.jit
def add_kernel(
    grad_ptr, positions_ptr, out_ptr, num_chunks, num_units, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """out[positions] += grad; no two chunks begin at one unit, so that no two programs meet."""
    j = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = j < num_chunks
    t = tl.load(positions_ptr + j, mask=inside, other=0).to(tl.int64)
    inside = inside & (t < num_units)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = inside[:, None] & (column < width)[None, :]
    at = out_ptr + t[:, None] * width + column[None, :]
    grad = tl.load(grad_ptr + j[:, None] * width + column[None, :], mask=lane, other=0.0).to(tl.float32)
    tl.store(at, tl.load(at, mask=lane, other=0.0).to(tl.float32) + grad, mask=lane)


def chunk_scan(boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if boundary_mask.is_cuda and cuda.library() is not None:
        return cuda.boundary_scan(boundary_mask, cu_seqlens)
    num_units, num_bounds, device = boundary_mask.shape[0], cu_seqlens.shape[0], boundary_mask.device
    mask, cu_seqlens = boundary_mask.contiguous().view(torch.int8), cu_seqlens.contiguous()
    blocks = triton.cdiv(num_units, SCAN_BLOCK)
    counts = torch.empty(blocks, dtype=torch.int32, device=device)
    chunk_index = torch.empty(num_units, dtype=torch.int64, device=device)
    chunk_offsets = torch.full((num_units + 1,), num_units, dtype=torch.int32, device=device)
    chunk_cu_seqlens = torch.empty_like(cu_seqlens)
    count_kernel[(blocks,)](mask, counts, num_units, BLOCK=SCAN_BLOCK, num_warps=4)
    scan_kernel[(blocks,)](
        mask, counts, chunk_index, chunk_offsets, num_units, BLOCK=SCAN_BLOCK, LANES=1024, num_warps=4
    )
    ends_kernel[(triton.cdiv(num_bounds, 256),)](
        cu_seqlens, chunk_index, chunk_cu_seqlens, num_bounds, BLOCK=256, num_warps=1
    )
    return chunk_index, chunk_offsets, chunk_cu_seqlens


def chunk_gather(x: Tensor, positions: Tensor) -> Tensor:
    num_chunks, (num_units, width) = positions.shape[0], x.shape
    rows, columns = row_tile(width)
    out = torch.empty(num_chunks, width, dtype=x.dtype, device=x.device)
    gather_kernel[(triton.cdiv(num_chunks, rows), triton.cdiv(width, columns))](
        x.contiguous(), positions, out, num_chunks, num_units, width, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return out


def chunk_backward(grad: Tensor, positions: Tensor, chunk_index: Tensor) -> Tensor:
    num_units, width = chunk_index.shape[0], grad.shape[1]
    rows, columns = row_tile(width)
    out = torch.empty(num_units, width, dtype=grad.dtype, device=grad.device)
    scatter_kernel[(triton.cdiv(num_units, rows), triton.cdiv(width, columns))](
        grad.contiguous(), positions, chunk_index, out, num_units, width, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return out


def chunk_add_(out: Tensor, grad: Tensor, positions: Tensor) -> Tensor:
    num_chunks, (num_units, width) = positions.shape[0], out.shape
    rows, columns = row_tile(width)
    add_kernel[(triton.cdiv(num_chunks, rows), triton.cdiv(width, columns))](
        grad.contiguous(), positions, out, num_chunks, num_units, width, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return out
