"""Reduction of the units of every chunk, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import segment_ids, widen


def segment_reduce_forward(x: Tensor, chunk_offsets: Tensor, reduction: str) -> tuple[Tensor, Tensor]:
    """(M,D) in x's dtype, and for "max" the unit (M,D) int32 that each element is from, else an empty tensor."""
    starts, stops = chunk_offsets[:-1].long(), chunk_offsets[1:].long()
    if reduction == "max":
        return maximum(x, chunk_offsets)
    if reduction in ("first", "last"):
        out = x.index_select(0, starts if reduction == "first" else stops - 1)
    else:
        (wide,) = widen(x)
        out = wide.new_zeros(starts.shape[0], x.shape[1])
        out.index_add_(0, segment_ids(chunk_offsets, x.shape[0]), wide)
        if reduction == "mean":
            out.div_((stops - starts).unsqueeze(1))
    return out.to(x.dtype), x.new_empty(0, x.shape[1], dtype=torch.int32)


def maximum(x: Tensor, chunk_offsets: Tensor) -> tuple[Tensor, Tensor]:
    num_units, width = x.shape
    index = segment_ids(chunk_offsets, num_units)
    chunk = index.unsqueeze(1).expand(num_units, width)
    out = x.new_empty(chunk_offsets.shape[0] - 1, width)
    out.scatter_reduce_(0, chunk, x, "amax", include_self=False)
    attains = (x == out.index_select(0, index)) | x.isnan()
    unit = torch.arange(num_units, dtype=torch.int32, device=x.device).unsqueeze(1)
    # The first of equal maxima: every other unit stands behind all of them.
    argmax = torch.full_like(out, num_units, dtype=torch.int32)
    argmax.scatter_reduce_(0, chunk, unit.where(attains, num_units), "amin")
    return out, argmax


def segment_reduce_backward(
    grad: Tensor, chunk_offsets: Tensor, argmax: Tensor, num_units: int, reduction: str
) -> Tensor:
    """Gradient (T,D) of x."""
    if reduction in ("sum", "mean"):
        (wide,) = widen(grad)
        if reduction == "mean":
            wide = wide / chunk_offsets.diff().unsqueeze(1)
        return wide.to(grad.dtype).index_select(0, segment_ids(chunk_offsets, num_units))
    dx = grad.new_zeros(num_units, grad.shape[1])
    if reduction == "max":
        return dx.scatter_(0, argmax.long(), grad)
    units = chunk_offsets[:-1] if reduction == "first" else chunk_offsets[1:] - 1
    return dx.index_copy_(0, units.long(), grad)
