"""Root-mean-square normalisation, with and without a gate: the CPU ops and the faces over the libraries."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import widen
from hnet_kernels.rms_norm import reference
from hnet_kernels.rms_norm.providers import face, gated_face


@torch.library.custom_op("hnet::rms_norm", mutates_args=())
def norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return reference.norm_forward(x, weight, eps)


@norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[0], 1)


@torch.library.custom_op("hnet::rms_norm_backward", mutates_args=())
def norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return reference.norm_backward(grad, x, weight, scale)


@norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def save_norm(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])
    ctx.mark_non_differentiable(output[1])


def differentiate_norm(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*norm_backward(grad, *ctx.saved_tensors), None)


norm.register_autograd(differentiate_norm, setup_context=save_norm)


@torch.library.custom_op("hnet::gated_rms_norm", mutates_args=())
def gated_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return reference.gated_forward(y, z, weight, eps)


@gated_norm.register_fake
def _(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape[0], 1)


@torch.library.custom_op("hnet::gated_rms_norm_backward", mutates_args=())
def gated_norm_backward(
    grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return reference.gated_backward(grad, y, z, weight, scale)


@gated_norm_backward.register_fake
def _(grad: Tensor, y: Tensor, z: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), z.new_empty(z.shape), weight.new_empty(weight.shape)


def save_gated_norm(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.mark_non_differentiable(output[1])


def differentiate_gated_norm(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*gated_norm_backward(grad, *ctx.saved_tensors), None)


gated_norm.register_autograd(differentiate_gated_norm, setup_context=save_gated_norm)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis (arXiv 1910.07467, equation 4).

    x (..., D) and weight (D,); returns x's shape and dtype. Half precision is computed in float32. Accelerators run
    the first provider of `rms_norm.providers` that is installed and suits.
    """
    if face.wants(x):
        out: Tensor = face(x, weight, eps)
        return out
    wide, wide_weight = widen(x, weight)
    return norm(wide.reshape(-1, x.shape[-1]), wide_weight, eps)[0].view(x.shape).to(x.dtype)


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """rms_norm(y * silu(z)): the gate comes before the norm, as in Mamba-2.

    y, z (..., D) and weight (D,); returns y's shape and dtype. Half precision is computed in float32. Accelerators run
    the first provider of `rms_norm.providers` that is installed and suits.
    """
    if gated_face.wants(y):
        normalised: Tensor = gated_face(y, z, weight, eps)
        return normalised
    wide_y, wide_z, wide_weight = widen(y, z, weight)
    width = y.shape[-1]
    out = gated_norm(wide_y.reshape(-1, width), wide_z.reshape(-1, width), wide_weight, eps)[0]
    return out.view(y.shape).to(y.dtype)
