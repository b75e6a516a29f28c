"""Boundary probabilities from neighbouring queries and keys, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import first_positions, widen

# As torch.nn.functional.normalize: shorter vectors are divided by this instead of by their length.
MIN_NORM = 1e-12


def route_forward(
    q: Tensor, k: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(prob, mask, confidence (T,), sum of prob (), number of boundaries () int64, cosine, |q|, |k| (T,)).

    cosine[t] is that of q[t-1] and k[t]; at a first unit it is -1, which is p = 1.
    """
    q, k = widen(q, k)
    q_norm, k_norm = torch.linalg.vector_norm(q, dim=-1), torch.linalg.vector_norm(k, dim=-1)
    cosine = q.new_empty(q.shape[0])
    torch.sum(q[:-1] * k[1:], -1, out=cosine[1:])
    cosine[1:].div_(q_norm[:-1].clamp_min(MIN_NORM)).div_(k_norm[1:].clamp_min(MIN_NORM))
    cosine.index_fill_(0, first_positions(cu_seqlens), -1.0)
    prob = ((1 - cosine) / 2).clamp_(0, 1)
    mask = prob > 0.5
    confidence = prob.where(mask, 1 - prob)
    return prob, mask, confidence, prob.sum(), mask.sum(), cosine, q_norm, k_norm


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
    """Gradients of q and k, in their dtype."""
    total = dprob + dconfidence.where(mask, -dconfidence) + dsum
    dcosine = torch.where(cosine.abs() <= 1, total / -2, 0).index_fill_(0, first_positions(cu_seqlens), 0.0)[1:, None]
    dtype = q.dtype
    q, k = widen(q, k)
    cosine, q_norm, k_norm = cosine[1:, None], q_norm[:-1, None], k_norm[1:, None]
    scale = dcosine / (q_norm.clamp_min(MIN_NORM) * k_norm.clamp_min(MIN_NORM))
    dq, dk = (torch.empty(q.shape, dtype=q.dtype, device=q.device) for _ in range(2))
    for out, own, other, norm in ((dq[:-1], q[:-1], k[1:], q_norm), (dk[1:], k[1:], q[:-1], k_norm)):
        radial = torch.where(norm >= MIN_NORM, -dcosine * cosine / norm.square().clamp_min(MIN_NORM**2), 0)
        torch.mul(other, scale, out=out).addcmul_(own, radial)
    dq[-1:].zero_()
    dk[:1].zero_()
    return dq.to(dtype), dk.to(dtype)
