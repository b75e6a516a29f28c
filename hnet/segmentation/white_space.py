"""Words of text: what lies between white space, which belongs to the word before it."""

import numpy as np
from numpy.typing import NDArray

from hnet.segmentation.characters import Flags, load_kinds


def find_words(codes: NDArray[np.int64]) -> Flags:
    """(C,) whether each character begins a word; the first one does."""
    table = load_kinds()
    white_space = table.white_space[table.of_code[codes]]
    begins = np.ones(len(codes), dtype=np.bool_)
    begins[1:] = white_space[:-1] & ~white_space[1:]
    return begins


class WordTracker:
    """The same, character by character."""

    def __init__(self) -> None:
        self._first, self._after_white_space = True, False

    def push(self, code: int) -> bool:
        """Whether this character begins a word."""
        table = load_kinds()
        white_space = bool(table.white_space[table.of_code[code]])
        begins = self._first or (self._after_white_space and not white_space)
        self._first, self._after_white_space = False, white_space
        return begins
