"""A linear map for every offset inside a chunk, in plain PyTorch: one matrix product for each offset."""

import torch
from torch import Tensor

from hnet_kernels.packed import segment_ids, widen


def units_by_offset(
    chunk_offsets: Tensor, num_units: int, num_offsets: int, wrap: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Units sorted by the number k of their weight, without a host synchronisation.

    Returns:
        The chunk (T,) of every unit; the sorted k (T,); the units (T,) in that order, those of one k as they stand;
        and where each k ends in it, (K,) int32.
    """
    chunk = segment_ids(chunk_offsets, num_units)
    offset = torch.arange(num_units, device=chunk.device) - chunk_offsets.long()[chunk]
    number = (offset % num_offsets if wrap else offset.clamp(max=num_offsets - 1)).int()
    numbers, units = torch.sort(number, stable=True)
    every = torch.arange(num_offsets, dtype=torch.int32, device=chunk.device)
    return chunk, numbers, units, torch.searchsorted(numbers, every, right=True, out_int32=True)


def groups(chunk_offsets: Tensor, num_units: int, num_offsets: int, wrap: bool) -> list[tuple[Tensor, Tensor]]:
    """For every offset its units and their chunks. On a GPU this waits for the number of each."""
    chunk, _, units, ends = units_by_offset(chunk_offsets, num_units, num_offsets, wrap)
    bounds = [0, *ends.tolist()]
    parts = [units[start:stop] for start, stop in zip(bounds, bounds[1:], strict=False)]
    return [(part, chunk[part]) for part in parts]


def offset_linear_forward(
    z: Tensor, weight: Tensor, chunk_offsets: Tensor, bias: Tensor | None, num_units: int, wrap: bool
) -> Tensor:
    """(T,Dout) in z's dtype."""
    wide_z, wide_weight = widen(z, weight)
    out = z.new_empty(num_units, weight.shape[1])
    for k, (units, chunks) in enumerate(groups(chunk_offsets, num_units, weight.shape[0], wrap)):
        rows = wide_z[chunks] @ wide_weight[k].T
        out[units] = (rows if bias is None else rows + bias[k]).to(z.dtype)
    return out


def offset_linear_backward(
    grad: Tensor, z: Tensor, weight: Tensor, chunk_offsets: Tensor, has_bias: bool, wrap: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of z (M,Din), of weight (K,Dout,Din) and of bias (K,Dout); without a bias the last is empty."""
    wide_z, wide_weight = widen(z, weight)
    dz, dweight = torch.zeros_like(wide_z), torch.empty_like(wide_weight)
    dbias = wide_z.new_empty(weight.shape[0] if has_bias else 0, weight.shape[1])
    for k, (units, chunks) in enumerate(groups(chunk_offsets, grad.shape[0], weight.shape[0], wrap)):
        (rows,) = widen(grad[units])
        dz.index_add_(0, chunks, rows @ wide_weight[k])
        dweight[k] = rows.T @ wide_z[chunks]
        if has_bias:
            dbias[k] = rows.sum(0)
    return dz.to(z.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype)
