"""Summed cross-entropy of next-unit predictions: the composition and the face over the libraries."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import widen
from hnet_kernels.providers import Face, Provider

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def suits_fla(logits: Tensor, labels: Tensor, ignore: int) -> bool:
    return logits.is_cuda and logits.dtype in DTYPES and not torch.compiler.is_compiling()


def fla(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Reads half precision as it lies, and leaves the logits as they are: callers look at them afterwards."""
    from fla.modules.fused_cross_entropy import cross_entropy_loss

    losses: Tensor = cross_entropy_loss(logits, labels, ignore_index=ignore, inplace_backward=False)[0]
    return losses.sum()


def plain(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    (wide,) = widen(logits)
    return F.cross_entropy(wide, labels, ignore_index=ignore, reduction="sum")


face = Face(
    "cross_entropy",
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.modules.fused_cross_entropy",),
        "pip install 'flash-linear-attention>=0.6', or the extra [gpu]",
    ),
    Provider("torch", plain),
)


def cross_entropy_sum(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Sum of -log softmax(logits)[label] in nats over the units whose label is not `ignore`.

    logits (T,V), labels (T,) int64; returns a scalar in float32, or float64 for float64 logits. Accelerators run
    flash-linear-attention where it is installed; `hnet_kernels.providers.provider("cross_entropy", name)` overrules.
    """
    out: Tensor = face(logits, labels, ignore) if face.wants(logits) else plain(logits, labels, ignore)
    return out
