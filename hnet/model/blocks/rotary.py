"""Rotary position embedding on the first channels of each head (Su et al. 2021; NeoX halves)."""

import torch
from torch import Tensor


def rotary_tables(positions: Tensor, rotary_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, 1, rotary_dim / 2) float32, for positions (T,)."""
    exponent = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float32) / rotary_dim
    angles = positions.float()[:, None] * base**-exponent
    return angles.cos()[:, None], angles.sin()[:, None]


class _Rotate(torch.autograd.Function):
    """Rotation in place of a chain of slices: one output buffer, and its transpose as backward."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    first, second = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    # In place on slices: torch.compile takes no `out=` that is not contiguous.
    out[..., :half].mul_(cos).addcmul_(second, sin, value=-1)
    out[..., half : 2 * half].mul_(cos).addcmul_(first, sin)
    return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + rotary_dim / 2) of x (T, H, P); channels from rotary_dim on stay."""
    return _Rotate.apply(x, cos, sin)
