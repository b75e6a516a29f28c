"""Exponential smoothing of chunks over packed documents, in plain PyTorch."""

import torch
from torch import Tensor

from hnet_kernels.packed import first_positions

MIN_PROB = 1e-4


def ema(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    dtype = z.dtype
    if dtype in (torch.bfloat16, torch.float16):
        z = z.float()
    prob = prob.to(z.dtype).clamp(MIN_PROB, 1 - MIN_PROB)[:, None]
    decay = (1 - prob).index_fill(0, first_positions(cu_seqlens), 0.0)
    value = prob * z
    shift = 1
    while shift < z.shape[0]:
        value = torch.cat([value[:shift], value[shift:] + decay[shift:] * value[:-shift]])
        decay = torch.cat([torch.zeros_like(decay[:shift]), decay[shift:] * decay[:-shift]])
        shift *= 2
    return value.to(dtype)
