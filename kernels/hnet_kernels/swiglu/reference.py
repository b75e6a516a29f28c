"""SwiGLU's gate on one packed projection, in plain PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_forward(packed: Tensor) -> Tensor:
    """silu(gate) * value (..., W) of packed = [value | gate] (..., 2W)."""
    value, gate = packed.chunk(2, -1)
    return F.silu(gate).mul_(value)


def swiglu_backward(grad: Tensor, packed: Tensor) -> Tensor:
    """Gradient of packed."""
    value, gate = packed.chunk(2, -1)
    out = torch.empty(packed.shape, dtype=packed.dtype, device=packed.device)
    grad_value, grad_gate = out.chunk(2, -1)
    torch.mul(grad, F.silu(gate), out=grad_value)
    grad_gate.copy_(torch.ops.aten.silu_backward(grad * value, gate))
    return out
