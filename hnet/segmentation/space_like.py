"""Chunks at space-like bytes (SpaceByte, Slagle 2024, arXiv 2404.14408, section 3)."""

import string
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hnet.segmentation.rule import BEGINS_HERE, BEGINS_NEXT, BOS, EOS, NOTHING_NEW, Ids, Marks, as_bytes

_IN_WORDS = {*(string.ascii_letters + string.digits).encode(), *range(0x80, 0xC0)}
SPACE_LIKE = np.array([byte not in _IN_WORDS for byte in range(256)])
"""(256,) bool: neither an ASCII letter or digit nor a UTF-8 continuation byte."""


@dataclass(frozen=True)
class SpaceLikeRule:
    """The first byte of each run of space-like bytes divides the text; BOS and EOS always do.

    begins "at" (SpaceByte): the dividing byte begins a chunk. "after" (the `space` patches of BLT, Pagnoni et al. 2024,
    arXiv 2412.09871): it ends one, and the next unit begins a chunk.
    """

    begins: Literal["at", "after"] = "at"

    @property
    def look_ahead(self) -> int:
        """0, known at the first unit itself; -1 for "after"."""
        return 0 if self.begins == "at" else -1

    def mark(self, ids: Ids) -> Marks:
        """Codes (N,) of the units (N,)."""
        units = as_bytes(ids)
        space_like = SPACE_LIKE[units]
        divides = space_like.copy()
        divides[1:] &= ~space_like[:-1]
        divides |= units >= min(BOS, EOS)
        marks = divides.astype(np.uint8) * np.uint8(self._code)
        if self.begins == "at":
            marks[:1] = NOTHING_NEW
        return marks

    def tracker(self) -> "SpaceLikeTracker":
        """The same codes, unit by unit."""
        return SpaceLikeTracker(self._code)

    @property
    def _code(self) -> int:
        return BEGINS_HERE if self.begins == "at" else BEGINS_NEXT


class SpaceLikeTracker:
    """Knows whether the unit before was space-like."""

    def __init__(self, code: int) -> None:
        self._code, self._first, self._in_run = code, True, False

    def push(self, unit: int) -> int:
        """Code of this unit."""
        space_like = bool(SPACE_LIKE[unit])
        divides = (space_like and not self._in_run) or unit in (BOS, EOS)
        if self._first and self._code == BEGINS_HERE:
            divides = False
        self._first, self._in_run = False, space_like
        return self._code if divides else NOTHING_NEW
