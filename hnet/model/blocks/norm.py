"""Root-mean-square normalisation."""

import torch
from torch import Tensor, nn

from hnet_kernels import gated_rms_norm, rms_norm


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight over the last axis (Zhang & Sennrich 2019, eq. 4)."""

    def __init__(self, dim: int, eps: float, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim, device=device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), dtype of `x`."""
        return rms_norm(x, self.weight, self.eps)


class GatedRMSNorm(RMSNorm):
    """RMSNorm of `y * silu(gate)`: the gate comes before the norm, as in Mamba-2."""

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:  # type: ignore[override]  # two inputs instead of one
        """(..., D), (..., D) -> (..., D)."""
        return gated_rms_norm(y, gate, self.weight, self.eps)
