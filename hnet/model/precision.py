"""One rule of precision: statistics, decays and residual streams are held in float32 or better."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float32 for the half precisions; float32 and float64 stay as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
