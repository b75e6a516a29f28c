"""Root-mean-square normalisation, in plain PyTorch.

All passes over a block of rows run before the next block is touched: on a CPU they then work in
cache, and nothing as large as the input is allocated besides the results.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import row_blocks


def inverse_rms(x: Tensor, eps: float, *, out: Tensor) -> Tensor:
    """(x^2's mean over the last axis + eps)^(-1/2) of x (R,D) into out (R,1)."""
    torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=out)
    return out.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def split(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The tensors (R,...) cut alike into blocks of rows; the first one's width sizes the blocks."""
    rows = row_blocks(*tensors[0].shape)[0][1]
    return zip(*(t.split(rows) for t in tensors), strict=True)


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised x (R,D) and the factor (R,1) of every row."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale = out.new_empty(x.shape[0], 1)
    for x_rows, out_rows, scale_rows in split(x, out, scale):
        torch.mul(x_rows, inverse_rms(x_rows, eps, out=scale_rows), out=out_rows).mul_(weight)
    return out, scale


def block_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, dweight: Tensor, product: Tensor, *, out: Tensor
) -> Tensor:
    """Gradient of one block of rows into `out`; adds to dweight (D,) and overwrites `product`."""
    torch.mul(grad, x, out=product)
    dweight.addmv_(product.t(), scale[:, 0])
    correction = torch.mv(product, weight)[:, None] * scale.square() / -x.shape[1]
    return torch.mul(grad, weight, out=out).addcmul_(x, correction).mul_(scale)


def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros_like(weight)
    scratch = dx.new_empty(row_blocks(*x.shape)[0][1], x.shape[1])
    for grad_rows, x_rows, scale_rows, dx_rows in split(grad, x, scale, dx):
        product = scratch[: x_rows.shape[0]]
        block_gradient(grad_rows, x_rows, weight, scale_rows, dweight, product, out=dx_rows)
    return dx, dweight


def gated_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised y * silu(z) (R,D) and the factor (R,1) of every row."""
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    scale = out.new_empty(y.shape[0], 1)
    for y_rows, z_rows, out_rows, scale_rows in split(y, z, out, scale):
        gated = torch.mul(F.silu(z_rows), y_rows, out=out_rows)
        gated.mul_(inverse_rms(gated, eps, out=scale_rows)).mul_(weight)
    return out, scale


def gated_backward(grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, z and weight."""
    dy, dz = (torch.empty(y.shape, dtype=y.dtype, device=y.device) for _ in range(2))
    dweight = torch.zeros_like(weight)
    rows = row_blocks(*y.shape)[0][1]
    scratch = dy.new_empty(3, rows, y.shape[1])
    for grad_rows, y_rows, z_rows, scale_rows, dy_rows, dz_rows in split(grad, y, z, scale, dy, dz):
        gate, gated, product = scratch[:, : y_rows.shape[0]].unbind(0)
        torch.ops.aten.silu.out(z_rows, out=gate)
        torch.mul(gate, y_rows, out=gated)
        dgated = block_gradient(grad_rows, gated, weight, scale_rows, dweight, product, out=dy_rows)
        torch.ops.aten.silu_backward.grad_input(torch.mul(dgated, y_rows, out=product), z_rows, grad_input=dz_rows)
        dgated.mul_(gate)
    return dy, dz, dweight
