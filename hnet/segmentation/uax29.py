"""Words of text: Unicode's word boundaries (UAX #29), divided and joined as hat-splitter 0.1.10 does.

    1  divide at the word boundaries of UAX #29,
    2  after every punctuation character,
    3  and between a lower-case and an upper-case letter;
    4  then join punctuation to the piece before it, unless that is white space,
    5  and what is no white space to the piece before it, if that is exactly one space.

Two of the splitter's cases depend on what follows; ours do not (`docs/segmentation.md`): U+2044 joins no digits, and
a piece that begins with white space is never joined. Rules WB6, 7a, 7b and 11, which look ahead, join a letter or digit
to punctuation after it. They are left out, for steps 2 and 4 say the same.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from hnet.segmentation.characters import Flags, WordBreak, load_kinds

_SIZE = len(WordBreak)
_LETTERS = [WordBreak.ALetter, WordBreak.Hebrew_Letter]
_WORD = [*_LETTERS, WordBreak.Numeric]
_EXTENDED = [*_WORD, WordBreak.Katakana, WordBreak.ExtendNumLet]
_SPACE, _REGIONAL, _ZWJ = WordBreak.WSegSpace, WordBreak.Regional_Indicator, WordBreak.ZWJ


def _table(*rules: tuple[list[WordBreak], ...]) -> Flags:
    """True where a rule's lists hold the values, one list for each of neighbouring characters."""
    table = np.zeros((_SIZE,) * len(rules[0]), dtype=np.bool_)
    for rule in rules:
        for values in product(*rule):
            table[values] = True
    return table


ABSORBED = _table(([WordBreak.Extend, WordBreak.Format, WordBreak.ZWJ],))
"""WB4: belongs to the character before it,"""
ENDS_LINE = _table(([WordBreak.CR, WordBreak.LF, WordBreak.Newline],))
"""unless that is one of these (WB3a)."""
JOINED = _table(
    ([WordBreak.CR], [WordBreak.LF]),  # WB3
    ([_SPACE], [_SPACE]),  # WB3d
    (_WORD, _WORD),  # WB5, 8, 9, 10
    ([WordBreak.Katakana], [WordBreak.Katakana]),  # WB13
    (_EXTENDED, [WordBreak.ExtendNumLet]),  # WB13a
    ([WordBreak.ExtendNumLet], _EXTENDED),  # WB13b
)
BRIDGED = _table(
    (_LETTERS, [WordBreak.MidLetter, WordBreak.MidNumLet, WordBreak.Single_Quote], _LETTERS),  # WB7
    ([WordBreak.Hebrew_Letter], [WordBreak.Double_Quote], [WordBreak.Hebrew_Letter]),  # WB7c
    ([WordBreak.Numeric], [WordBreak.MidNum, WordBreak.MidNumLet, WordBreak.Single_Quote], [WordBreak.Numeric]),  # WB12
)
"""The third is joined to the second if the first is before it."""


def find_words(codes: NDArray[np.int64]) -> Flags:
    """(C,) whether each of at least one character begins a word; the first one does."""
    table = load_kinds()
    kinds = table.of_code[codes]
    begins = _find_pieces(kinds)
    first = np.flatnonzero(begins)
    white_space = table.white_space[kinds]
    num_white = np.concatenate([[0], np.cumsum(white_space)])
    end = np.append(first[1:], len(codes))
    is_space = (codes[first] == ord(" ")) & (end - first == 1)
    is_white = (num_white[end] - num_white[first] == end - first) & ~is_space
    # Word or punctuation join what is before them, as the labels of two neighbouring pieces say.
    joins = np.where(table.punctuation[kinds[first[1:]]], ~is_white[:-1], is_space[:-1])
    begins[first[1:]] = white_space[first[1:]] | ~joins
    return begins


def _find_pieces(kinds: NDArray[np.uint8]) -> Flags:
    """(C,) where steps 1 to 3 divide."""
    table = load_kinds()
    breaks = table.word_break[kinds]
    begins = np.ones(len(kinds), dtype=np.bool_)
    absorbable = ABSORBED[breaks]
    if absorbable.any():
        absorbed = absorbable.copy()
        absorbed[0] = False
        absorbed[1:] &= ~ENDS_LINE[breaks[:-1]]
        kept = np.flatnonzero(~absorbed)
        begins[absorbed] = False
        begins[kept[1:]] = ~_join(breaks[kept], np.diff(kept) > 1)
        begins[1:] &= ~((breaks[:-1] == _ZWJ) & table.pictographic[kinds[1:]])  # WB3c
    else:
        begins[1:] = ~_join(breaks, None)
    begins[1:] |= table.punctuation[kinds[:-1]] | (table.lower[kinds[:-1]] & table.upper[kinds[1:]])
    return begins


def _join(breaks: NDArray[np.uint8], apart: Flags | None) -> Flags:
    """(C - 1,) whether UAX #29 joins neighbours. `apart`: where absorbed characters lie between them."""
    joined = JOINED[breaks[:-1], breaks[1:]]
    if apart is not None:
        joined &= ~(apart & (breaks[1:] == _SPACE))
        # Without absorbed characters, step 2 divides here in any case.
        joined[1:] |= BRIDGED[breaks[:-2], breaks[1:-1], breaks[2:]]
    regional = breaks == _REGIONAL
    if regional.any():
        index = np.arange(len(breaks))
        run_start = np.maximum.accumulate(np.where(regional, 0, index + 1))
        joined |= (regional[:-1] & regional[1:]) & ((index - run_start)[1:] % 2 == 1)  # WB15, WB16
    return joined


class WordTracker:
    """The same, character by character."""

    def __init__(self) -> None:
        self._table = load_kinds()
        self._last = int(self._table.of_code[ord("\n")])
        """Kind of the last character. A sequence begins as a line does."""
        self._before = self._base = int(WordBreak.LF)
        """Word_Break of the last two characters that were not absorbed."""
        self._odd_regional = False
        self._length = self._num_white = 1
        """Characters of the last piece, and how many of them are white space."""
        self._space = False
        """Whether that piece begins with U+0020."""

    def push(self, code: int) -> bool:
        """Whether this character begins a word."""
        table, kind = self._table, int(self._table.of_code[code])
        white_space = bool(table.white_space[kind])
        begins = False
        if self._begins_piece(kind):
            is_space = self._space and self._length == 1
            is_white = self._num_white == self._length and not is_space
            joins = not is_white if table.punctuation[kind] else is_space
            begins = white_space or not joins
            self._length, self._num_white, self._space = 0, 0, code == ord(" ")
        self._length += 1
        self._num_white += white_space
        self._last = kind
        return begins

    def _begins_piece(self, kind: int) -> bool:
        table, last = self._table, self._last
        value = int(table.word_break[kind])
        after = int(table.word_break[last])
        divided = bool(table.punctuation[last] or (table.lower[last] and table.upper[kind]))
        if ABSORBED[value] and not ENDS_LINE[after]:
            return divided
        joined = bool(JOINED[self._base, value] or BRIDGED[self._before, self._base, value])
        if value == _SPACE:
            joined = joined and after == _SPACE
        if value == _REGIONAL:
            joined = self._odd_regional
        if after == _ZWJ and table.pictographic[kind]:
            joined = True
        self._odd_regional = value == _REGIONAL and not self._odd_regional
        self._before, self._base = self._base, value
        return divided or not joined
