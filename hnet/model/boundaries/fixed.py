"""Chunks of a fixed number of units (MEGABYTE, arXiv 2305.07185), at any stage."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.config.boundaries import FixedConfig
from hnet.model.config.part import PartSizes
from hnet.model.packed import Packed, positions


class Fixed(nn.Module):
    """A chunk begins at every `stride`-th unit of a document; that it ends is known at its last unit.

    With separators, which then are a part of it, it is taken to end at the next one's first unit: the decoder begins
    anew there.
    """

    def __init__(self, sizes: PartSizes, config: FixedConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self._size, self._is_early = config.stride + config.separators, not config.separators

    def forward(self, x: Packed, cache: StateCache | None = None) -> Boundaries:
        """Units (T, D) -> mask (T,) bool."""
        position = positions(x.cu_seqlens, x.values.shape[0])
        if cache is not None:
            kept, rows = x.kept()
            cache.write("units", x.cu_seqlens.diff().long()[kept], rows)
        return self._at(position, None)

    def step(
        self, x: Tensor, cache: StateCache, rows: Tensor, is_first: Tensor, marks: Tensor | None = None
    ) -> Boundaries:
        """One unit of each of `rows` (R,)."""
        position = cache.read("units", rows, torch.zeros_like(rows))
        cache.write("units", position + 1, rows)
        return self._at(position, torch.zeros_like(rows) if self._is_early else None)

    def _at(self, position: Tensor, behind: Tensor | None) -> Boundaries:
        closes = (position + 1) % self._size == 0 if self._is_early else None
        return Boundaries.given(position % self._size == 0, closes, behind)
