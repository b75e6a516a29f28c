"""Selection of the boundary units, in plain PyTorch."""

import torch
from torch import Tensor


def chunk_forward(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(chunks (M,D), chunk_cu_seqlens (B+1,) int32, chunk_index (T,), positions of the chunks (M,))."""
    counts = boundary_mask.cumsum(0)
    positions = boundary_mask.nonzero().squeeze(1)
    chunk_cu_seqlens = torch.zeros_like(cu_seqlens)
    chunk_cu_seqlens[1:] = counts.index_select(0, cu_seqlens[1:].long() - 1)
    return x.index_select(0, positions), chunk_cu_seqlens, counts.sub_(1), positions


def chunk_backward(grad: Tensor, positions: Tensor, num_units: int) -> Tensor:
    """Gradient (T,D) of the units: a chunk's at its position, zero elsewhere."""
    return grad.new_zeros(num_units, grad.shape[1]).index_copy_(0, positions, grad)
