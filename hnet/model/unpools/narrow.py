"""From the channels of a chunk to those of a unit."""

import torch
from torch import Tensor, nn

from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import NarrowingConfig


class LastChannels(nn.Module):
    """SpaceByte's: where zeros came first, the units' own channels are the last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, x: Tensor) -> Tensor:
        """(..., D') -> (..., D)."""
        return x[..., -self._width :]


def narrowing(sizes: PartSizes, config: NarrowingConfig, *, device: torch.device | str | None = None) -> nn.Module:
    """A module (..., chunk width) -> (..., unit width)."""
    if sizes.chunk_width == sizes.width:
        return nn.Identity()
    if config.narrowing == "last":
        return LastChannels(sizes.width)
    return nn.Linear(sizes.chunk_width, sizes.width, bias=False, device=device)
