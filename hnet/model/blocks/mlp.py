"""SwiGLU MLP (Shazeer 2020)."""

import torch
from torch import Tensor, nn

from hnet_kernels.swiglu.op import swiglu


class SwiGLU(nn.Module):
    """fc2(silu(gate) * value) with fc1 = [value | gate]: the second half is the gate."""

    def __init__(self, dim: int, width: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * width, bias=False, device=device)
        self.fc2 = nn.Linear(width, dim, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return self.fc2(swiglu(self.fc1(x)))
