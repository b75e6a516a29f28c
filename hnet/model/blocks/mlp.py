"""SwiGLU MLP (Shazeer 2020)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * value on one (T, 2 h) buffer [value | gate]; the sigmoid is recomputed in the backward pass."""

    @staticmethod
    def forward(ctx, packed: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(packed)
        value, gate = packed.chunk(2, -1)
        return F.silu(gate).mul_(value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (packed,) = ctx.saved_tensors
        value, gate = packed.chunk(2, -1)
        out = torch.empty_like(packed)
        grad_value, grad_gate = out.chunk(2, -1)
        torch.mul(grad, F.silu(gate), out=grad_value)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad * value, gate))
        return out


class SwiGLU(nn.Module):
    """fc2(silu(gate) * value) with fc1 = [value | gate]: the second half is the gate."""

    def __init__(self, dim: int, width: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * width, bias=False, device=device)
        self.fc2 = nn.Linear(width, dim, bias=False, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        hidden: Tensor = _SwiGLU.apply(self.fc1(x))
        return self.fc2(hidden)
