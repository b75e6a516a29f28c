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


class HalfEmbedding(nn.Embedding):
    """An embedding with fp32 parameters and bf16 rows: what stages hand to each other is then bf16."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).bfloat16()


def compute_in_bf16(model: nn.Module) -> None:
    """Make every linear layer of `model` a `HalfLinear` and every embedding a `HalfEmbedding`.

    The skip connections are a class of their own, with a precision of their own.
    """
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = HalfLinear
        elif type(module) is nn.Embedding:
            module.__class__ = HalfEmbedding
