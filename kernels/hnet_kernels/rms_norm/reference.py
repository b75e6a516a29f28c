"""Root-mean-square normalisation, in plain PyTorch.

All passes over a block of rows run before the next block is touched: on a CPU they then work in
cache, and nothing as large as the input is allocated besides the results.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import row_blocks


def inverse_rms(x: Tensor, eps: float, *, out: Tensor) -> Tensor:
    """(x^2's mean over the last axis + eps)^(-1/2) of x (R,D) into out (R,1)."""
    torch.linalg.vector_norm(x, dim=-1, keepdim=True, out=out)
    return out.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


def norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised x (R,D) and the factor (R,1) of every row."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    scale = out.new_empty(x.shape[0], 1)
    for a, b in row_blocks(*x.shape):
        torch.mul(x[a:b], inverse_rms(x[a:b], eps, out=scale[a:b]), out=out[a:b]).mul_(weight)
    return out, scale


def block_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, dweight: Tensor, scratch: Tensor, *, out: Tensor
) -> None:
    """Gradient of one block of rows into `out`; adds to dweight (D,)."""
    product = torch.mul(grad, x, out=scratch[: x.shape[0]])
    dweight.addmv_(product.t(), scale[:, 0])
    correction = torch.mv(product, weight)[:, None] * scale.square() / -x.shape[1]
    torch.mul(grad, weight, out=out).addcmul_(x, correction).mul_(scale)


def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros_like(weight)
    blocks = row_blocks(*x.shape)
    scratch = dx.new_empty(blocks[0][1], x.shape[1])
    for a, b in blocks:
        block_gradient(grad[a:b], x[a:b], weight, scale[a:b], dweight, scratch, out=dx[a:b])
    return dx, dweight


def gated_forward(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised y * silu(z) (R,D) and the factor (R,1) of every row."""
    out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
    scale = out.new_empty(y.shape[0], 1)
    for a, b in row_blocks(*y.shape):
        gated = torch.mul(F.silu(z[a:b]), y[a:b], out=out[a:b])
        gated.mul_(inverse_rms(gated, eps, out=scale[a:b])).mul_(weight)
    return out, scale


def gated_backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y, z and weight."""
    dy, dz = (torch.empty(y.shape, dtype=y.dtype, device=y.device) for _ in range(2))
    dweight = torch.zeros_like(weight)
    blocks = row_blocks(*y.shape)
    gate, gated, scratch = (dy.new_empty(blocks[0][1], y.shape[1]) for _ in range(3))
    for a, b in blocks:
        rows = b - a
        torch.ops.aten.silu.out(z[a:b], out=gate[:rows])
        torch.mul(gate[:rows], y[a:b], out=gated[:rows])
        block_gradient(grad[a:b], gated[:rows], weight, scale[a:b], dweight, scratch, out=dy[a:b])
        torch.mul(dy[a:b], y[a:b], out=gated[:rows])
        torch.ops.aten.silu_backward.grad_input(gated[:rows], z[a:b], grad_input=dz[a:b])
        dy[a:b].mul_(gate[:rows])
    return dy, dz, dweight
