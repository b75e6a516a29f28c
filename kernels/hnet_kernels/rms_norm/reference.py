"""Root-mean-square normalisation, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (wide * scale * weight.to(wide.dtype)).to(x.dtype)


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    if y.dtype in (torch.bfloat16, torch.float16):
        return rms_norm(y.float() * F.silu(z.float()), weight, eps).to(y.dtype)
    return rms_norm(y * F.silu(z), weight, eps)
