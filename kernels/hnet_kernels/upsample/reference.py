"""Return from chunks to units with a straight-through confidence, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import row_blocks


def upsample_forward(zbar: Tensor, chunk_index: Tensor, residual: Tensor) -> Tensor:
    out = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
    for a, b in row_blocks(*residual.shape):
        torch.index_select(zbar, 0, chunk_index[a:b], out=out[a:b]).add_(residual[a:b])
    return out


def upsample_backward(grad: Tensor, zbar: Tensor, chunk_index: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of zbar (M,D) and of the confidence (T,)."""
    dzbar = zbar.new_zeros(zbar.shape).index_add_(0, chunk_index, grad)
    dconfidence = grad.new_empty(grad.shape[0])
    for a, b in row_blocks(*grad.shape):
        torch.sum(zbar.index_select(0, chunk_index[a:b]).mul_(grad[a:b]), -1, out=dconfidence[a:b])
    return dzbar, dconfidence
