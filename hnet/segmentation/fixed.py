"""Chunks of a fixed number of units (MEGABYTE, Yu et al. 2023, arXiv 2305.07185)."""

from dataclasses import dataclass

import numpy as np

from hnet.segmentation.rule import BEGINS_NEXT, NOTHING_NEW, Ids, Marks


@dataclass(frozen=True)
class FixedRule:
    """A chunk begins at every unit whose index in the sequence is a multiple of `stride`."""

    stride: int

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride is {self.stride}; a chunk needs at least 1 unit")

    @property
    def look_ahead(self) -> int:
        """-1: counting says so one unit before."""
        return -1

    def mark(self, ids: Ids) -> Marks:
        """Codes (N,) of the units (N,)."""
        marks = np.zeros(len(ids), dtype=np.uint8)
        marks[self.stride - 1 :: self.stride] = BEGINS_NEXT
        return marks

    def tracker(self) -> "FixedTracker":
        """The same codes, unit by unit."""
        return FixedTracker(self.stride)


class FixedTracker:
    """Counts."""

    def __init__(self, stride: int) -> None:
        self._stride, self._num_units = stride, 0

    def push(self, unit: int) -> int:
        """Code of this unit."""
        self._num_units += 1
        return NOTHING_NEW if self._num_units % self._stride else BEGINS_NEXT
