"""Selective state-space scan of Mamba-2 over packed documents: our op and the face over the libraries."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from hnet_kernels.packed import check_cu_seqlens, widen
from hnet_kernels.providers import Face, Provider
from hnet_kernels.ssd_scan import reference
from hnet_kernels.ssd_scan.providers import LIBRARIES, Result


@torch.library.custom_op("hnet::ssd_scan", mutates_args=())
def scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, x.shape[0])
    return reference.scan_forward(x, dt, A, B, C, D, cu_seqlens)


@scan.register_fake
def _(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    num_blocks = (x.shape[0] + reference.BLOCK - 1) // reference.BLOCK
    return x.new_empty(x.shape), x.new_empty(num_blocks, B.shape[1], x.shape[1] * x.shape[2])


@torch.library.custom_op("hnet::ssd_scan_backward", mutates_args=())
def scan_backward(
    dy: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    y: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return reference.scan_backward(dy, x, dt, A, B, C, D, cu_seqlens, y, states)


@scan_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    y: Tensor,
    states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, dt, A, B, C, D))  # type: ignore[return-value]


def save_scan(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def differentiate_scan(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*scan_backward(dy, *ctx.saved_tensors), None)


scan.register_autograd(differentiate_scan, setup_context=save_scan)


@torch.library.custom_op("hnet::ssd_final_states", mutates_args=())
def final_states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor) -> Tensor:
    return reference.final_states(x, dt, A, B, cu_seqlens)


@final_states.register_fake
def _(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor) -> Tensor:
    return x.new_empty(cu_seqlens.shape[0] - 1, x.shape[1], x.shape[2], B.shape[1])


@torch.library.custom_op("hnet::ssd_final_states_backward", mutates_args=())
def final_states_backward(
    dstates: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return reference.final_states_backward(dstates, x, dt, A, B, cu_seqlens)


@final_states_backward.register_fake
def _(
    dstates: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), dt.new_empty(dt.shape), A.new_empty(A.shape), B.new_empty(B.shape)


def save_final_states(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def differentiate_final_states(ctx: Any, dstates: Tensor) -> tuple[Tensor | None, ...]:
    return (*final_states_backward(dstates, *ctx.saved_tensors), None)


final_states.register_autograd(differentiate_final_states, setup_context=save_final_states)


def own(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, return_final_states: bool
) -> Result:
    """Our ops on every device; half precision is computed in float32."""
    wide = widen(x, dt, A, B, C, D)
    y = scan(*wide, cu_seqlens)[0].to(x.dtype)
    return y, final_states(*wide[:4], cu_seqlens) if return_final_states else None


face = Face("ssd_scan", *LIBRARIES, Provider("reference", own))


@overload
def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    *,
    return_final_states: Literal[False] = False,
) -> Tensor: ...


@overload
def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    *,
    return_final_states: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    cu_seqlens: Tensor,
    *,
    return_final_states: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba-2's scan (arXiv 2405.21060, section 6), the state zero before each document.

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T and y_t = h_t C_t + D x_t, per head. On a CPU our own op runs, on
    accelerators the first of mamba-ssm, flash-linear-attention and `reference` that is installed and suits the
    tensors; `hnet_kernels.providers.provider("ssd_scan", name)` chooses another.

    Args:
        x: (T,H,P) inputs; any stride between units.
        dt: (T,H) step sizes >= 0, softplus already applied.
        A: (H,) negative.
        B, C: (T,N), one group shared by the heads.
        D: (H,) skip.
        cu_seqlens: (B+1,) int32.

    Returns:
        y (T,H,P) in x's dtype; with `return_final_states` also the states (B,H,P,N) after each
        document, float32 (float64 for float64 inputs). Our op computes half precision in float32.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T.
    """
    if face.wants(x):
        check_cu_seqlens(cu_seqlens, x.shape[0])
        y, states = face(x, dt, A, B, C, D, cu_seqlens, return_final_states)
    else:
        y, states = own(x, dt, A, B, C, D, cu_seqlens, return_final_states)
    if not return_final_states:
        return y
    if states is None:
        states = ssd_final_states(x, dt, A, B, cu_seqlens)
    return y, states.to(torch.promote_types(states.dtype, torch.float32))


def ssd_final_states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, cu_seqlens: Tensor) -> Tensor:
    """The states (B,H,P,N) of `ssd_scan` after each document alone, by our op; differentiable.

    Arguments as there; float32, or float64 for float64 inputs. The host waits for the documents' lengths.
    """
    result: Tensor = final_states(*widen(x, dt, A, B), cu_seqlens)
    return result
