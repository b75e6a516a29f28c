"""A linear map for every offset inside a chunk: grouped products of a library, and the moves of rows around them."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.offset_linear.reference import units_by_offset
from hnet_kernels.segment_reduce.triton import ordered_segment_sum
from hnet_kernels.tiles import row_tile

# Private in older releases, and missing in the oldest.
grouped_mm: Any = getattr(torch.nn.functional, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


@triton.jit(do_not_specialize=["num_units"])
def place_kernel(
    rows_ptr,
    units_ptr,
    numbers_ptr,
    bias_ptr,
    out_ptr,
    num_units,
    width,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    i = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = i < num_units
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = inside[:, None] & (column < width)[None, :]
    unit = tl.load(units_ptr + i, mask=inside, other=0).to(tl.int64)
    row = tl.load(rows_ptr + i[:, None] * width + column[None, :], mask=lane, other=0.0)
    if HAS_BIAS:
        number = tl.load(numbers_ptr + i, mask=inside, other=0).to(tl.int64)
        bias = tl.load(bias_ptr + number[:, None] * width + column[None, :], mask=lane, other=0.0)
        row = row.to(tl.float32) + bias.to(tl.float32)
    tl.store(out_ptr + unit[:, None] * width + column[None, :], row, mask=lane)


def place(rows: Tensor, units: Tensor, numbers: Tensor, bias: Tensor | None) -> Tensor:
    """out[units[i]] = rows[i] + bias[numbers[i]]: every row read once and written once."""
    out = torch.empty_like(rows)
    num_units, width = rows.shape
    block, columns = row_tile(width, 1024)
    block = triton.next_power_of_2(block)
    place_kernel[(triton.cdiv(num_units, block), triton.cdiv(width, columns))](
        rows,
        units,
        numbers,
        rows if bias is None else bias,
        out,
        num_units,
        width,
        HAS_BIAS=bias is not None,
        ROWS=block,
        COLUMNS=columns,
        num_warps=max(1, block * columns // 256),
    )
    return out


def can_group(z: Tensor, weight: Tensor) -> bool:
    """Whether the library's grouped product takes these without asking the host for the sizes of the groups.

    It does for bfloat16 rows of whole 16-byte words from compute capability 9.0 on.
    """
    aligned = all(size % 8 == 0 for size in weight.shape[1:])
    recent = not z.is_cuda or torch.cuda.get_device_capability(z.device) >= (9, 0)
    return grouped_mm is not None and z.dtype == torch.bfloat16 and aligned and recent


class Groups:
    """Products over rows that are sorted by offset."""

    def __init__(self, ends: Tensor, grouped: bool) -> None:
        self.ends = ends
        # Without a grouped product one product an offset: the only wait for the device.
        bounds = [] if grouped else [0, *ends.tolist()]
        self.bounds = list(zip(bounds, bounds[1:], strict=False))
        self.grouped = grouped

    def rows_times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """(T,n) from rows (T,m) and matrices (K,m,n)."""
        if self.grouped:
            out: Tensor = grouped_mm(rows, matrices, offs=self.ends)
            return out
        out = rows.new_empty(rows.shape[0], matrices.shape[2])
        for (start, stop), matrix in zip(self.bounds, matrices, strict=True):
            torch.mm(rows[start:stop], matrix, out=out[start:stop])
        return out

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """(K,m,n): for every offset the sum over its rows of left (T,m) times right (T,n)."""
        if self.grouped:
            out: Tensor = grouped_mm(left.T, right, offs=self.ends)
            # On some GPUs the library leaves what was in memory for an offset without rows (pytorch issue 172439).
            return out.masked_fill_((self.ends.diff(prepend=self.ends.new_zeros(1)) == 0)[:, None, None], 0.0)
        out = left.new_empty(len(self.bounds), left.shape[1], right.shape[1])
        for (start, stop), product in zip(self.bounds, out, strict=True):
            torch.mm(left[start:stop].T, right[start:stop], out=product)
        return out


def offset_linear_forward(
    z: Tensor, weight: Tensor, chunk_offsets: Tensor, bias: Tensor | None, num_units: int, wrap: bool
) -> Tensor:
    chunk, numbers, units, ends = units_by_offset(chunk_offsets, num_units, weight.shape[0], wrap)
    rows = z.index_select(0, chunk[units])
    rows = Groups(ends, can_group(z, weight)).rows_times(rows, weight.contiguous().mT)
    return place(rows, units, numbers, None if bias is None else bias.contiguous())


def offset_linear_backward(
    grad: Tensor, z: Tensor, weight: Tensor, chunk_offsets: Tensor, has_bias: bool, wrap: bool
) -> tuple[Tensor, Tensor, Tensor]:
    num_units, num_offsets = grad.shape[0], weight.shape[0]
    chunk, numbers, units, ends = units_by_offset(chunk_offsets, num_units, num_offsets, wrap)
    products = Groups(ends, can_group(z, weight))
    rows = grad.index_select(0, units)
    dweight = products.outer(rows, z.index_select(0, chunk[units]))
    dbias = grad.new_empty(0, weight.shape[1])
    if has_bias:
        every = torch.arange(num_offsets, dtype=numbers.dtype, device=grad.device)
        dbias = (every.unsqueeze(1) == numbers).to(grad.dtype) @ rows
    rows = products.rows_times(rows, weight.contiguous())
    place_of_unit = torch.empty_like(units).scatter_(0, units, torch.arange(num_units, device=grad.device))
    return ordered_segment_sum(rows, place_of_unit, chunk_offsets), dweight, dbias
