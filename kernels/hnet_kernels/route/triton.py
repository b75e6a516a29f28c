"""Boundary probabilities in one pass over queries and keys, and their gradients in another."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.packed import first_positions
from hnet_kernels.tiles import row_tile


@triton.jit
def route_kernel(
    q_ptr,
    k_ptr,
    first_ptr,
    prob_ptr,
    mask_ptr,
    confidence_ptr,
    sums_ptr,
    cosine_ptr,
    q_norm_ptr,
    k_norm_ptr,
    num_units,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Row t of a tile reads q[t-1] and k[t]; row T reads q[T-1] alone, for its norm."""
    program = tl.program_id(0)
    t = program.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    has_k = t < num_units
    has_q = (t > 0) & (t <= num_units)
    column = tl.arange(0, COLUMNS)
    qq = tl.zeros((ROWS,), tl.float32)
    kk = tl.zeros((ROWS,), tl.float32)
    qk = tl.zeros((ROWS,), tl.float32)
    for start in range(0, width, COLUMNS):
        inside = (start + column) < width
        at = t[:, None] * width + start + column[None, :]
        q = tl.load(q_ptr + at - width, mask=has_q[:, None] & inside[None, :], other=0.0).to(tl.float32)
        k = tl.load(k_ptr + at, mask=has_k[:, None] & inside[None, :], other=0.0).to(tl.float32)
        qq += tl.sum(q * q, 1)
        kk += tl.sum(k * k, 1)
        qk += tl.sum(q * k, 1)
    q_norm = tl.sqrt(qq)
    k_norm = tl.sqrt(kk)
    first = tl.load(first_ptr + t, mask=has_k, other=1) > 0
    cosine = tl.where(first, -1.0, qk / tl.maximum(q_norm, 1e-12) / tl.maximum(k_norm, 1e-12))
    # By default a GPU's maximum of a NaN and a number is the number.
    prob = tl.clamp((1.0 - cosine) / 2.0, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
    boundary = prob > 0.5
    tl.store(prob_ptr + t, prob, mask=has_k)
    tl.store(mask_ptr + t, boundary.to(tl.int8), mask=has_k)
    tl.store(confidence_ptr + t, tl.where(boundary, prob, 1.0 - prob), mask=has_k)
    tl.store(cosine_ptr + t, cosine, mask=has_k)
    tl.store(k_norm_ptr + t, k_norm, mask=has_k)
    tl.store(q_norm_ptr + t - 1, q_norm, mask=has_q)
    tl.store(sums_ptr + program, tl.sum(tl.where(has_k, prob, 0.0), 0))
    tl.store(sums_ptr + tl.num_programs(0) + program, tl.sum((boundary & has_k).to(tl.float32), 0))


@triton.jit
def route_backward_kernel(
    dprob_ptr,
    dconfidence_ptr,
    dsum_ptr,
    mask_ptr,
    q_ptr,
    k_ptr,
    first_ptr,
    cosine_ptr,
    q_norm_ptr,
    k_norm_ptr,
    dq_ptr,
    dk_ptr,
    num_units,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Row t of a tile writes dq[t-1] and dk[t], which q[t-1] and k[t] determine; row T writes dq[T-1] = 0."""
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    has_k = t < num_units
    has_q = (t > 0) & (t <= num_units)
    inner = has_k & (tl.load(first_ptr + t, mask=has_k, other=1) == 0)
    cosine = tl.load(cosine_ptr + t, mask=inner, other=0.0)
    dconfidence = tl.load(dconfidence_ptr + t, mask=inner, other=0.0)
    boundary = tl.load(mask_ptr + t, mask=inner, other=0) > 0
    dprob = tl.load(dprob_ptr + t, mask=inner, other=0.0) + tl.where(boundary, dconfidence, -dconfidence)
    dprob += tl.load(dsum_ptr)
    dcosine = tl.where(inner & (tl.abs(cosine) <= 1.0), dprob * -0.5, 0.0)
    q_norm = tl.load(q_norm_ptr + t - 1, mask=inner, other=1.0)
    k_norm = tl.load(k_norm_ptr + t, mask=inner, other=1.0)
    # Divided one after the other: the product of two tiny norms would be zero in float32.
    scale = dcosine / tl.maximum(q_norm, 1e-12) / tl.maximum(k_norm, 1e-12)
    radial = -dcosine * cosine
    q_radial = tl.where(q_norm >= 1e-12, radial / tl.maximum(q_norm, 1e-12) / tl.maximum(q_norm, 1e-12), 0.0)
    k_radial = tl.where(k_norm >= 1e-12, radial / tl.maximum(k_norm, 1e-12) / tl.maximum(k_norm, 1e-12), 0.0)
    column = tl.arange(0, COLUMNS)
    for start in range(0, width, COLUMNS):
        inside = (start + column) < width
        at = t[:, None] * width + start + column[None, :]
        q = tl.load(q_ptr + at - width, mask=inner[:, None] & inside[None, :], other=0.0).to(tl.float32)
        k = tl.load(k_ptr + at, mask=inner[:, None] & inside[None, :], other=0.0).to(tl.float32)
        dq = scale[:, None] * k + q_radial[:, None] * q
        dk = scale[:, None] * q + k_radial[:, None] * k
        tl.store(dq_ptr + at - width, dq, mask=has_q[:, None] & inside[None, :])
        tl.store(dk_ptr + at, dk, mask=has_k[:, None] & inside[None, :])


def first_units(cu_seqlens: Tensor, num_units: int) -> Tensor:
    """(T,) int8: 1 where the unit is the first of its document."""
    first = torch.zeros(num_units, dtype=torch.int8, device=cu_seqlens.device)
    return first.index_fill_(0, first_positions(cu_seqlens), 1)


def route_forward(
    q: Tensor, k: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_units, width = q.shape
    rows, columns = row_tile(width)
    programs = triton.cdiv(num_units + 1, rows)
    prob, confidence, cosine, q_norm, k_norm = (
        torch.empty(num_units, dtype=torch.float32, device=q.device) for _ in range(5)
    )
    mask = torch.empty(num_units, dtype=torch.bool, device=q.device)
    sums = torch.empty(2, programs, dtype=torch.float32, device=q.device)
    route_kernel[(programs,)](
        q.contiguous(), k.contiguous(), first_units(cu_seqlens, num_units), prob, mask.view(torch.int8), confidence,
        sums, cosine, q_norm, k_norm, num_units, width, ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    # Parts of up to a tile's rows are exact in float32, millions of units are not.
    prob_sum, count = sums[0].sum(), sums[1].sum(dtype=torch.float64).long()
    return prob, mask, confidence, prob_sum, count, cosine, q_norm, k_norm


def route_backward(
    dprob: Tensor,
    dconfidence: Tensor,
    dsum: Tensor,
    mask: Tensor,
    q: Tensor,
    k: Tensor,
    cu_seqlens: Tensor,
    cosine: Tensor,
    q_norm: Tensor,
    k_norm: Tensor,
) -> tuple[Tensor, Tensor]:
    num_units, width = q.shape
    rows, columns = row_tile(width)
    dq, dk = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(2))
    route_backward_kernel[(triton.cdiv(num_units + 1, rows),)](
        dprob.contiguous(), dconfidence.contiguous(), dsum, mask.view(torch.int8), q.contiguous(), k.contiguous(),
        first_units(cu_seqlens, num_units), cosine, q_norm, k_norm, dq, dk, num_units, width,
        ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip
    return dq, dk
