"""Chunks that are words (HAT, Neitemeier et al. 2025, arXiv 2501.10322)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from hnet.segmentation import uax29, white_space
from hnet.segmentation.characters import Flags
from hnet.segmentation.rule import BEGINS_HERE, BOS, EOS, NOTHING_NEW, Ids, Marks, as_bytes
from hnet.segmentation.utf8 import MALFORMED, SPECIAL, Characters, Decoder, decode

Split = Literal["unicode", "white_space"]
_SPLITS = {"unicode": uax29, "white_space": white_space}


@dataclass(frozen=True)
class WordsRule:
    """A chunk is a word. BOS and EOS are words of one unit; a byte that is no UTF-8 belongs to the word before it.

    split "unicode": `uax29` (appendix C of the paper, and its released models). "white_space": a word and the white
    space after it (the paper's main runs).
    max_bytes: longer words are cut before the first character that would exceed it.
    """

    split: Split = "unicode"
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.max_bytes is not None and self.max_bytes < 4:
            raise ValueError(f"max_bytes is {self.max_bytes}; give at least 4, the bytes of the longest character")

    @property
    def look_ahead(self) -> int:
        """3: a word is known at the last byte of its first character."""
        return 3

    def mark(self, ids: Ids) -> Marks:
        """Codes (N,) of the units (N,)."""
        if not len(ids):
            return np.zeros(0, dtype=np.uint8)
        characters = decode(as_bytes(ids))
        begins = _SPLITS[self.split].find_words(characters.codes)
        begins[1:] &= characters.codes[1:] != MALFORMED
        special = characters.codes == SPECIAL
        begins |= special
        begins[1:] |= special[:-1]
        if self.max_bytes is not None:
            _cut(begins, characters, self.max_bytes)
        return self._codes(begins, special, characters, len(ids))

    def tracker(self) -> "WordsTracker":
        """The same codes, unit by unit."""
        return WordsTracker(self)

    def _codes(self, begins: Flags, special: Flags, characters: Characters, num_units: int) -> Marks:
        """Known at the last byte of the character; at its first byte where the character does not matter."""
        index = np.flatnonzero(begins)
        starts, widths = characters.starts[index], characters.widths[index]
        at_once = special[index[1:]] | special[index[1:] - 1]
        if self.max_bytes is not None:
            at_once |= np.diff(starts) + widths[1:] > self.max_bytes
        wait = np.where(at_once, 0, widths[1:] - 1)
        marks = np.zeros(num_units, dtype=np.uint8)
        marks[starts[1:] + wait] = BEGINS_HERE + wait
        return marks


class WordsTracker:
    """Decodes, splits and counts bytes."""

    def __init__(self, rule: WordsRule) -> None:
        self._words = _SPLITS[rule.split].WordTracker()
        self._max_bytes = rule.max_bytes
        self._decoder = Decoder()
        self._num_units = 0
        self._chunk = 0
        """First unit of the chunk that is being read."""
        self._after_special = False

    def push(self, unit: int) -> int:
        """Code of this unit."""
        end = self._num_units + 1
        known = self._decoder.push(unit)
        code = NOTHING_NEW
        if self._decoder.announced and self._begins_at_once(unit, self._decoder.announced):
            code, self._chunk = BEGINS_HERE, self._num_units
        for character, num_bytes in known:
            begins = self._words.push(character) and character != MALFORMED
            if begins and end - num_bytes > self._chunk:
                code, self._chunk = BEGINS_HERE + num_bytes - 1, end - num_bytes
        self._num_units, self._after_special = end, unit in (BOS, EOS)
        return code

    def _begins_at_once(self, unit: int, width: int) -> bool:
        """Whether a character of `width` bytes begins a chunk whatever it is."""
        if self._num_units == 0:
            return False
        too_long = self._max_bytes is not None and self._num_units + width - self._chunk > self._max_bytes
        return self._after_special or unit in (BOS, EOS) or too_long


def _cut(begins: Flags, characters: Characters, max_bytes: int) -> None:
    """Divide words of more than `max_bytes`, in place. What a malformed first byte announces counts as its bytes."""
    starts = characters.starts
    ends = np.maximum.accumulate(starts + characters.widths)
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(begins)) - 1
    for word in np.flatnonzero(ends[last] - starts[first] > max_bytes):
        begin = first[word]
        while ends[last[word]] - starts[begin] > max_bytes:
            begin = np.searchsorted(ends, starts[begin] + max_bytes, side="right")
            begins[begin] = True
