"""Selection of the boundary units, in plain PyTorch."""

import torch
from torch import Tensor


def chunk_scan(boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(chunk_index (T,) int64, chunk_offsets (T+1,) int32, chunk_cu_seqlens (B+1,) int32).

    M is the last of chunk_cu_seqlens; chunk_offsets holds M+1 entries, from there on T.
    """
    num_units = boundary_mask.shape[0]
    counts = boundary_mask.cumsum(0)
    chunk_cu_seqlens = torch.zeros_like(cu_seqlens)
    chunk_cu_seqlens[1:] = counts.index_select(0, cu_seqlens[1:].long() - 1)
    chunk_offsets = cu_seqlens.new_full((num_units + 1,), num_units)
    positions = boundary_mask.nonzero().squeeze(1)
    chunk_offsets[: positions.shape[0]] = positions
    return counts.sub_(1), chunk_offsets, chunk_cu_seqlens


def may_be_padded(positions: Tensor, num_units: int) -> bool:
    """Whether positions (M,) end in T, which stands for no unit; off the CPU nobody looks, it would stop the stream."""
    return not positions.is_cpu or (positions.shape[0] > 0 and int(positions[-1]) == num_units)


def chunk_gather(x: Tensor, positions: Tensor) -> Tensor:
    """Rows (M,D) of x (T,D) at positions (M,); a position T is a row of zeros."""
    if not may_be_padded(positions, x.shape[0]):
        return x.index_select(0, positions)
    inside = positions < x.shape[0]
    return x.index_select(0, positions * inside).mul_(inside[:, None])


def chunk_backward(grad: Tensor, positions: Tensor, chunk_index: Tensor) -> Tensor:
    """Gradient (T,D) of the units: a chunk's at its position, zero elsewhere."""
    return chunk_add_(grad.new_zeros(chunk_index.shape[0], grad.shape[1]), grad, positions)


def chunk_add_(out: Tensor, grad: Tensor, positions: Tensor) -> Tensor:
    """Add grad (M,D) to the rows of out (T,D) at positions (M,), in out's dtype; a position T is left out."""
    if may_be_padded(positions, out.shape[0]):
        inside = positions < out.shape[0]
        grad, positions = grad * inside[:, None], positions * inside
    return out.index_add_(0, positions, grad.to(out.dtype))
