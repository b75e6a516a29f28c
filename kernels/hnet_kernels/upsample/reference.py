"""Return from chunks to units with a straight-through confidence, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import row_blocks, widen


def upsample_forward(zbar: Tensor, chunk_index: Tensor, residual: Tensor, out_dtype: torch.dtype) -> Tensor:
    """out (T,D) of `out_dtype`, summed in float32 (float64 if a term is) and rounded once."""
    (wide_zbar,) = widen(zbar)
    out = torch.empty(residual.shape, dtype=out_dtype, device=residual.device)
    for a, b in row_blocks(*residual.shape):
        torch.add(wide_zbar.index_select(0, chunk_index[a:b]), residual[a:b], out=out[a:b])
    return out


def upsample_backward(
    grad: Tensor, zbar: Tensor, chunk_index: Tensor, chunk_offsets: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of zbar (M,D), in its dtype, and of the confidence (T,), in float32 or float64."""
    (wide_zbar,) = widen(zbar)
    dzbar = torch.zeros_like(wide_zbar)
    dconfidence = wide_zbar.new_empty(grad.shape[0])
    for a, b in row_blocks(*grad.shape):
        index, rows = chunk_index[a:b], grad[a:b].to(wide_zbar.dtype)
        dzbar.index_add_(0, index, rows)
        torch.sum(wide_zbar.index_select(0, index).mul_(rows), -1, out=dconfidence[a:b])
    return dzbar.to(zbar.dtype), dconfidence
