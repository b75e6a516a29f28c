"""Boundaries that are known from the text, and come with the units as marks."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.config.part import BoundaryConfig, PartSizes
from hnet.model.packed import Packed
from hnet.segmentation.rule import BEGINS_HERE, BEGINS_NEXT


class Given(nn.Module):
    """Reads the codes of `hnet.segmentation.rule`: code c > 0 of unit t says that a chunk begins at unit t + 2 - c."""

    def __init__(self, sizes: PartSizes, config: BoundaryConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(self, x: Packed, cache: StateCache | None = None) -> Boundaries:
        """Marks (T,) uint8 of the pack -> mask (T,) bool. Raises ValueError if the pack has none."""
        if x.marks is None or x.marks.shape != x.values.shape[:1]:
            given = None if x.marks is None else tuple(x.marks.shape)
            raise ValueError(f"boundaries of this model are known from the text: {len(x.values)} marks, got {given}")
        codes = x.marks.long()
        closes = codes > 0
        begins = torch.arange(len(codes), device=codes.device) + BEGINS_HERE - codes
        mask = torch.zeros(len(codes) + 1, dtype=torch.bool, device=codes.device)
        # A unit without news points at itself, and turns nothing on.
        mask = mask.scatter_reduce(0, begins.where(closes, 0), closes, "amax")
        mask = mask[:-1].index_fill(0, x.cu_seqlens[:-1].long(), True)
        if cache is not None:
            kept, rows = x.kept()
            cache.write("code", codes[x.cu_seqlens[1:].long()[kept] - 1], rows)
        return Boundaries.given(mask, closes)

    def step(
        self, x: Tensor, cache: StateCache, rows: Tensor, is_first: Tensor, marks: Tensor | None = None
    ) -> Boundaries:
        """Marks (R,) of one unit each of `rows` (R,). Raises ValueError without marks."""
        if marks is None:
            raise ValueError("boundaries of this model are known from the text: give the marks of the units")
        codes = marks.long()
        before = cache.read("code", rows, torch.zeros_like(codes))
        cache.write("code", codes, rows)
        mask = is_first | (codes == BEGINS_HERE) | (before == BEGINS_NEXT)
        return Boundaries.given(mask, codes > 0, codes - 1)
