"""Rotary position embedding by tables: our function and the face over the libraries."""

import torch
from torch import Tensor

from hnet_kernels.providers import Face, Provider

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class Rotate(torch.autograd.Function):
    """Rotation in place of a chain of slices: one output buffer, and its transpose as backward."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        cos, sin = ctx.saved_tensors
        return rotated(grad, cos, -sin), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = cos.shape[-1]
    out = x.clone(memory_format=torch.contiguous_format)
    first, second = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    # In place on slices: torch.compile takes no `out=` that is not contiguous.
    out[..., :half].mul_(cos).addcmul_(second, sin, value=-1)
    out[..., half : 2 * half].mul_(cos).addcmul_(first, sin)
    return out


def suits_fla(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    return x.is_cuda and x.dtype in DTYPES and x.shape[2] <= 256 and not torch.compiler.is_compiling()


def fla(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The pack is one sequence to it: row t of our tables already is the angle of unit t."""
    from fla.modules.rotary import rotary_embedding

    out: Tensor = rotary_embedding(x[None], cos[:, 0].to(x.dtype), sin[:, 0].to(x.dtype))[0]
    return out


def plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out: Tensor = Rotate.apply(x, cos, sin)
    return out


face = Face(
    "rotary",
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.modules.rotary",),
        "pip install 'flash-linear-attention>=0.6', or the extra [gpu]",
    ),
    Provider("torch", plain),
)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (i, i + R) of x by the angle of their unit and channel (arXiv 2104.09864, equation 34).

    x (T,H,P); cos and sin (T,1,R) with 2R <= P; channels from 2R on stay. Returns (T,H,P) in x's dtype. Accelerators
    run flash-linear-attention where it is installed; `hnet_kernels.providers.provider("rotary", name)` overrules.
    """
    out: Tensor = face(x, cos, sin) if face.wants(x) else plain(x, cos, sin)
    return out
