"""Unit-by-unit loops: the independent definition that the ops are compared with."""

import math

import torch
from torch import Tensor


def documents(cu_seqlens: Tensor) -> list[tuple[int, int]]:
    bounds = cu_seqlens.tolist()
    return list(zip(bounds, bounds[1:], strict=False))


def varlen_attention(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor, window: int) -> Tensor:
    rows = []
    for start, stop in documents(cu_seqlens):
        for i in range(start, stop):
            low = start if window < 0 else max(start, i - window)
            scores = torch.einsum("hp,jhp->hj", q[i], k[low : i + 1]) / math.sqrt(q.shape[-1])
            rows.append(torch.einsum("hj,jhp->hp", scores.softmax(-1), v[low : i + 1]))
    return torch.stack(rows)


def ssd_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    rows, states = [], []
    for start, stop in documents(cu_seqlens):
        state = x.new_zeros(x.shape[1], x.shape[2], B.shape[1])
        for i in range(start, stop):
            state = state * (dt[i] * A).exp()[:, None, None]
            state = state + torch.einsum("h,hp,n->hpn", dt[i], x[i], B[i])
            rows.append(torch.einsum("hpn,n->hp", state, C[i]) + D[:, None] * x[i])
        states.append(state)
    return torch.stack(rows), torch.stack(states)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    width = weight.shape[1]
    rows = []
    for start, stop in documents(cu_seqlens):
        for i in range(start, stop):
            row = bias
            for tap in range(width):
                if i - tap >= start:
                    row = row + weight[:, width - 1 - tap] * x[i - tap]
            rows.append(row * torch.sigmoid(row))
    return torch.stack(rows)


def route(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> Tensor:
    probs = []
    for start, stop in documents(cu_seqlens):
        probs.append(q.new_ones(()))
        for i in range(start + 1, stop):
            cosine = q[i - 1] @ k[i] / (q[i - 1].norm() * k[i].norm())
            probs.append(((1 - cosine) / 2).clamp(0, 1))
    return torch.stack(probs)


def chunk(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, list[int], list[int]]:
    rows, bounds, index = [], [0], []
    for start, stop in documents(cu_seqlens):
        for i in range(start, stop):
            if bool(boundary_mask[i]):
                rows.append(x[i])
            index.append(len(rows) - 1)
        bounds.append(len(rows))
    return torch.stack(rows), bounds, index


def ema(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    prob = prob.clamp(1e-4, 1 - 1e-4)
    rows = []
    for start, stop in documents(cu_seqlens):
        state = torch.zeros_like(z[0])
        for i in range(start, stop):
            state = prob[i] * z[i] + (1 - prob[i]) * state
            rows.append(state)
    return torch.stack(rows)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + eps) * weight
