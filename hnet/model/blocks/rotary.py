"""Rotary position embedding on the first channels of each head (Su et al. 2021; NeoX halves)."""

import torch
from torch import Tensor


def rotary_tables(positions: Tensor, rotary_dim: int, base: float) -> tuple[Tensor, Tensor]:
    """cos and sin, each (T, 1, rotary_dim / 2) float32, for positions (T,)."""
    exponent = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float32) / rotary_dim
    angles = positions.float()[:, None] * base**-exponent
    return angles.cos()[:, None], angles.sin()[:, None]
