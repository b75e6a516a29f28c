"""What a rule for chunks is: where chunks begin, and at which unit that is known."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""(N,) units of one document, or of a piece of one: bytes 0..255, BOS and EOS."""

Marks = NDArray[np.uint8]
"""(N,) codes: what is known about the beginnings of chunks once a unit is read, and was not known before it."""

BOS = 254
"""Begins a document; occurs in no valid UTF-8."""
EOS = 255
"""Ends a document; occurs in no valid UTF-8."""

NOTHING_NEW = 0
BEGINS_NEXT = 1
"""A chunk begins at the next unit. In general code c says at unit t that a chunk begins at unit t + 2 - c."""
BEGINS_HERE = 2


class Tracker(Protocol):
    """Reads a sequence unit by unit."""

    def push(self, unit: int) -> int:
        """Code of this unit, as `Rule.mark` gives it to the whole sequence."""
        ...


class Rule(Protocol):
    """Says where chunks begin. The first unit of a sequence begins one without a code.

    Right-stable: what follows changes no code, so `mark(ids[:n])` equals `mark(ids)[:n]`. Chunk beginnings are known in
    their order, at most one at each unit. Equal rules have equal `repr`.
    """

    @property
    def look_ahead(self) -> int:
        """A chunk's beginning is known at most this many units after its first unit; -1: one unit before it."""
        ...

    def mark(self, ids: Ids) -> Marks:
        """Codes (N,) of the units (N,)."""
        ...

    def tracker(self) -> Tracker:
        """The same codes, unit by unit."""
        ...


def as_bytes(ids: Ids) -> NDArray[np.uint8]:
    """The units (N,) as bytes. Raises ValueError for a unit that is no byte: rules read text."""
    if ids.size and (ids.min() < 0 or ids.max() > 255):
        wrong = int(ids[(ids < 0) | (ids > 255)][0])
        raise ValueError(f"unit {wrong} is no byte; rules for chunks read bytes 0 to 255, so use the tokenizer `bytes`")
    return ids.astype(np.uint8)


def chunk_starts(marks: Marks) -> NDArray[np.int64]:
    """Indices of the first units of chunks, ascending from 0; `len(marks)` is one if the next unit begins a chunk."""
    known = np.flatnonzero(marks)
    return np.concatenate([[0], known + 2 - marks[known].astype(np.int64)])
