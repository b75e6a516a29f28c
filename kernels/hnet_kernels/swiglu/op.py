"""SwiGLU's gate on one packed projection: our op and the face over the libraries."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.providers import Face, Provider
from hnet_kernels.swiglu import reference

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@torch.library.custom_op("hnet::swiglu", mutates_args=())
def gate(packed: Tensor) -> Tensor:
    return reference.swiglu_forward(packed)


@gate.register_fake
def _(packed: Tensor) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], packed.shape[-1] // 2)


@torch.library.custom_op("hnet::swiglu_backward", mutates_args=())
def gate_backward(grad: Tensor, packed: Tensor) -> Tensor:
    return reference.swiglu_backward(grad, packed)


@gate_backward.register_fake
def _(grad: Tensor, packed: Tensor) -> Tensor:
    return packed.new_empty(packed.shape)


def save(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def differentiate(ctx: Any, grad: Tensor) -> Tensor:
    return gate_backward(grad, *ctx.saved_tensors)


gate.register_autograd(differentiate, setup_context=save)


def suits_fla(packed: Tensor) -> bool:
    return packed.is_cuda and packed.dtype in DTYPES and not torch.compiler.is_compiling()


def fla(packed: Tensor) -> Tensor:
    from fla.modules.activations import swiglu

    value, gates = packed.chunk(2, -1)
    out: Tensor = swiglu(gates, value)
    return out


def plain(packed: Tensor) -> Tensor:
    """For torch.compile, which fuses it and computes the sigmoid anew in the backward pass; else our op does so."""
    if not torch.compiler.is_compiling():
        return gate(packed)
    value, gates = packed.chunk(2, -1)
    return F.silu(gates) * value


face = Face(
    "swiglu",
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.modules.activations",),
        "pip install 'flash-linear-attention>=0.6', or the extra [gpu]",
    ),
    Provider("torch", plain),
)


def swiglu(packed: Tensor) -> Tensor:
    """silu(gate) * value of packed = [value | gate] (arXiv 2002.05202, equation 6, before the last product).

    packed (..., 2W); returns (..., W) in its dtype. The sigmoid is computed anew in the backward pass. Accelerators run
    flash-linear-attention where it is installed; `hnet_kernels.providers.provider("swiglu", name)` overrules.
    """
    out: Tensor = face(packed) if face.wants(packed) else gate(packed)
    return out
