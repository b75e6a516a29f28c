"""Boundary probabilities from neighbouring queries and keys, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import first_positions


def route(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    if q.dtype in (torch.bfloat16, torch.float16):
        q, k = q.float(), k.float()
    cosine = (F.normalize(q[:-1], dim=-1) * F.normalize(k[1:], dim=-1)).sum(-1)
    prob = F.pad(((1 - cosine) / 2).clamp(0, 1), (1, 0), value=1.0)
    prob = prob.index_fill(0, first_positions(cu_seqlens), 1.0)
    return prob, prob > 0.5
