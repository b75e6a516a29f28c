"""Units to Unicode characters; what is no UTF-8 becomes characters of its own, and no byte is lost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnet.segmentation.rule import BOS, EOS

MALFORMED = 0x110000
"""Stands for one byte that belongs to no character: the code after the last of Unicode."""
SPECIAL = 0x110001
"""Stands for BOS and EOS."""

_BYTES = np.arange(256)
WIDTH = np.ones(256, dtype=np.int64)
"""(256,) bytes of the character that a byte begins; 1 for those that begin none."""
WIDTH[0xC2:0xE0], WIDTH[0xE0:0xF0], WIDTH[0xF0:0xF5] = 2, 3, 4

SECOND_LOW = np.where(_BYTES == 0xE0, 0xA0, np.where(_BYTES == 0xF0, 0x90, 0x80)).astype(np.uint8)
SECOND_HIGH = np.where(_BYTES == 0xED, 0x9F, np.where(_BYTES == 0xF4, 0x8F, 0xBF)).astype(np.uint8)
"""(256,) least and greatest second byte after a first one (Unicode 16.0, table 3-7)."""

_PAYLOAD = np.array([0, 0x7F, 0x1F, 0x0F, 0x07])
"""Bits of the code in the first byte, by width."""


@dataclass(frozen=True, slots=True)
class Characters:
    """C characters of N bytes."""

    codes: NDArray[np.int64]
    """(C,) code points, `MALFORMED` or `SPECIAL`."""
    starts: NDArray[np.int64]
    """(C,) index of the first byte of each, ascending."""
    widths: NDArray[np.int64]
    """(C,) bytes that the first byte announces; a malformed first byte may announce more than follow."""


def decode(units: NDArray[np.uint8]) -> Characters:
    """The characters of `units` (N,)."""
    codes = units.astype(np.int64)
    if not (units >= 0x80).any():
        return Characters(codes, np.arange(len(units)), np.ones(len(units), dtype=np.int64))
    widths = WIDTH[units]
    covered = np.zeros(len(units), dtype=np.bool_)
    codes[units >= 0x80] = MALFORMED
    codes[(units == BOS) | (units == EOS)] = SPECIAL
    for width in (2, 3, 4):
        first = np.flatnonzero(widths[: max(0, len(units) - width + 1)] == width)
        lead = units[first]
        second = units[first + 1]
        valid = (second >= SECOND_LOW[lead]) & (second <= SECOND_HIGH[lead])
        for offset in range(2, width):
            valid &= (units[first + offset] & 0xC0) == 0x80
        first = first[valid]
        code = (units[first] & _PAYLOAD[width]).astype(np.int64)
        for offset in range(1, width):
            code = (code << 6) | (units[first + offset] & 0x3F)
            covered[first + offset] = True
        codes[first] = code
    starts = np.flatnonzero(~covered)
    return Characters(codes[starts], starts, widths[starts])


class Decoder:
    """The same, byte by byte."""

    def __init__(self) -> None:
        self._pending: list[int] = []
        self.announced = 0
        """Bytes of the character that the last byte began; 0 if it went on with one."""

    def push(self, unit: int) -> list[tuple[int, int]]:
        """(code, bytes) of the characters that are known with this byte: malformed ones, then one that it completes."""
        known = []
        if self._pending and not self._continues(unit):
            known = [(MALFORMED, 1)] * len(self._pending)
            self._pending = []
        self._pending.append(unit)
        width = int(WIDTH[self._pending[0]])
        self.announced = width if len(self._pending) == 1 else 0
        if len(self._pending) == width:
            known.append((self._code(), width))
            self._pending = []
        return known

    def _continues(self, unit: int) -> bool:
        lead = self._pending[0]
        if len(self._pending) == 1:
            return bool(SECOND_LOW[lead] <= unit <= SECOND_HIGH[lead])
        return unit & 0xC0 == 0x80

    def _code(self) -> int:
        lead, *others = self._pending
        if not others:
            return lead if lead < 0x80 else SPECIAL if lead in (BOS, EOS) else MALFORMED
        code = lead & int(_PAYLOAD[len(self._pending)])
        for unit in others:
            code = (code << 6) | (unit & 0x3F)
        return code
