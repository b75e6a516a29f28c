"""bf16 compute with fp32 master weights: the parameters stay fp32, linear layers multiply in bf16.

Nothing but the layers' own `forward` changes, so that it holds alike under data parallel, every ZeRO stage (which
gathers a layer's weight around that call) and activation checkpointing (which repeats it in the backward pass), and
gradients, their sums over micro-batches and ranks, and checkpoints are fp32. What lies between linear layers takes
its precision from its inputs: the kernels compute in fp32 inside, the residual streams are fp32.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class HalfLinear(nn.Linear):
    """A linear layer with fp32 parameters that multiplies in bf16: (..., K) of any float dtype -> (..., N) bf16."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.bfloat16()
        return F.linear(input.bfloat16(), self.weight.bfloat16(), bias)


def compute_in_bf16(model: nn.Module) -> None:
    """Make every linear layer of `model` a `HalfLinear`, but the skip connections (`residual`), which H-Net keeps in
    fp32 (arXiv 2507.07955, section 2.2.3)."""
    for name, module in model.named_modules():
        if type(module) is nn.Linear and name.rsplit(".", 1)[-1] != "residual":
            module.__class__ = HalfLinear
