"""The table of units alone."""

import torch
from torch import Tensor, nn

from hnet.model.cache import StateCache
from hnet.model.config.embeddings import TableConfig
from hnet.model.packed import Packed


class NothingAdded(nn.Module):
    def __init__(self, width: int, config: TableConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, ids: Tensor, cache: StateCache | None = None) -> Tensor:
        """Rows of the table (T, D) in `x`, ids (T,) -> what the outermost stage is given (T, D)."""
        return x.values

    def step(self, x: Tensor, ids: Tensor, cache: StateCache, rows: Tensor) -> Tensor:
        """One unit (R, D), ids (R,) of `rows` (R,) -> (R, D)."""
        return x
