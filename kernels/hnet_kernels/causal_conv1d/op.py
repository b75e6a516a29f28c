"""Depthwise causal convolution + SiLU over packed documents: the CPU op and the face over the libraries."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.causal_conv1d import reference
from hnet_kernels.causal_conv1d.providers import face
from hnet_kernels.packed import check_cu_seqlens, widen


@torch.library.custom_op("hnet::causal_conv1d", mutates_args=())
def conv(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    check_cu_seqlens(cu_seqlens, x.shape[0])
    return reference.conv_forward(x, weight, bias, cu_seqlens)


@conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("hnet::causal_conv1d_backward", mutates_args=())
def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.conv_backward(grad, x, weight, bias, cu_seqlens)


@conv_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*conv_backward(grad, *ctx.saved_tensors), None)


conv.register_autograd(differentiate, setup_context=save)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    """silu(bias + sum over k of weight[:, k] * x[t-K+1+k]), taps before the document's start being zero.

    On a CPU our own op runs, on accelerators the first provider of `causal_conv1d.providers` that is installed and
    suits the tensors; `hnet_kernels.providers.provider("causal_conv1d", name)` chooses another.

    Args:
        x: (T,C); any stride between units.
        weight: (C,K), the last tap on the unit itself.
        bias: (C,).
        cu_seqlens: (B+1,) int32.

    Returns:
        (T,C) in x's dtype. Half precision is computed in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T.
    """
    if face.wants(x):
        check_cu_seqlens(cu_seqlens, x.shape[0])
        out: Tensor = face(x, weight, bias, cu_seqlens)
        return out
    wide_x, wide_weight, wide_bias = widen(x, weight, bias)
    return conv(wide_x, wide_weight, wide_bias, cu_seqlens).to(x.dtype)
