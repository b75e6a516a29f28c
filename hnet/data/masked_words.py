"""Masked words: some words of a window are hidden, and their sub-words are the labels (Byte2Word, arXiv 2211.12677)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from hnet.data.batch import IGNORE, Batch
from hnet.data.collate import lay_out_piece
from hnet.data.pack import Piece, Window
from hnet.data.shuffle import derive_key
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer
from hnet.segmentation.layout import Layout
from hnet.segmentation.rule import BEGINS_HERE, BOS, EOS, Ids, chunk_starts

MASK = 0xC0
"""The unit that stands for a hidden word; occurs in no valid UTF-8."""
_KEPT_WORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Masking:
    """How words are hidden: shares of the words, and of those that are targets."""

    slots: int
    """Sub-words of a word that are labels, its first ones."""
    fraction: float = 0.15
    """Of the words are targets."""
    masked: float = 0.8
    """Of the targets become one `MASK`, whatever their length."""
    exchanged: float = 0.1
    """Of the targets become another word of the window; the rest stay."""


@dataclass(frozen=True, slots=True)
class _Words:
    """The M words of a window's T units."""

    ids: Ids
    starts: NDArray[np.int64]
    """(M + 1,) first unit of each word, and T."""
    is_first: NDArray[np.bool_]
    """(M,) begins a sequence."""
    may_hide: NDArray[np.bool_]
    """(M,) is a whole word of text: neither cut by the window nor BOS or EOS."""

    def word(self, index: int) -> Ids:
        return self.ids[self.starts[index] : self.starts[index + 1]]


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A window as the model reads it."""

    ids: Ids
    starts: NDArray[np.int64]
    is_first: NDArray[np.bool_]
    targets: NDArray[np.int64]
    """(N,) words."""
    labels: NDArray[np.int64]
    """(N, slots)."""


class MaskedWords:
    """The draws of a window depend on the seed and its number in the stream alone.

    Of BERT's recipe (arXiv 1810.04805, section 3.1), with words for tokens: each whole word is a target with
    probability `fraction`, at least one in a window that has any.
    """

    def __init__(self, layout: Layout, subwords: ByteTokenizer | FileTokenizer, masking: Masking, *, seed: int) -> None:
        """`layout` has a rule that finds words, and no separators."""
        self.layout, self._masking, self._key = layout, masking, derive_key(seed, 0x3A5C)
        self.identity: dict[str, object] = {"subwords": subwords.identity}
        self._subwords_of = lru_cache(_KEPT_WORDS)(subwords.encode)

    def batch(self, windows: Sequence[Window], number: int) -> Batch:
        hidden = [self._hide(_words(window, self.layout), number + index) for index, window in enumerate(windows)]
        of_windows = [
            [len(window), sum(piece.units.text_bytes(piece.start, piece.stop) for piece in window)]
            for window in windows
        ]
        return _batch(hidden, of_windows)

    def empty(self, unit: int) -> Batch:
        alone = np.array([unit], dtype=np.int64)
        none = np.zeros(0, dtype=np.int64)
        labels = np.zeros((0, self._masking.slots), dtype=np.int64)
        return _batch([_Hidden(alone, np.array([0, 1]), np.array([True]), none, labels)], [])

    def _hide(self, words: _Words, number: int) -> _Hidden:
        masking = self._masking
        chosen, kind, partner = np.random.default_rng(derive_key(self._key, number)).random((3, len(words.may_hide)))
        candidates = np.flatnonzero(words.may_hide)
        targets = candidates[chosen[candidates] < masking.fraction]
        if not targets.size and candidates.size:
            targets = candidates[[chosen[candidates].argmin()]]
        pieces, end, lengths = [], 0, np.diff(words.starts)
        for target in targets.tolist():
            if kind[target] < masking.masked:
                word = np.array([MASK])
            elif kind[target] < masking.masked + masking.exchanged:
                word = words.word(int(candidates[int(partner[target] * len(candidates))]))
            else:
                continue
            pieces += [words.ids[end : words.starts[target]], word]
            end = int(words.starts[target + 1])
            lengths[target] = len(word)
        ids = np.concatenate([*pieces, words.ids[end:]])
        starts = np.concatenate([[0], np.cumsum(lengths)])
        return _Hidden(ids, starts, words.is_first, targets, self._labels(words, targets))

    def _labels(self, words: _Words, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        labels = np.full((len(targets), self._masking.slots), IGNORE, dtype=np.int64)
        for row, target in zip(labels, targets.tolist(), strict=True):
            subwords = self._subwords_of(words.word(target).astype(np.uint8).tobytes())[: len(row)]
            row[: len(subwords)] = subwords
        return labels


def _words(window: Window, layout: Layout) -> _Words:
    ids, starts, is_first, may_hide = [], [], [], []
    num_units = 0
    for piece in window:
        own, begins, whole = _words_of_piece(piece, layout)
        ids.append(own)
        starts.append(begins + num_units)
        is_first.append(begins == 0)
        may_hide.append(whole)
        num_units += len(own)
    return _Words(
        np.concatenate(ids), np.append(np.concatenate(starts), num_units), np.concatenate(is_first),
        np.concatenate(may_hide),
    )  # fmt: skip


def _words_of_piece(piece: Piece, layout: Layout) -> tuple[Ids, NDArray[np.int64], NDArray[np.bool_]]:
    laid_out = lay_out_piece(piece, layout)
    assert laid_out.marks is not None, "the layout of masked words has a rule"
    starts = chunk_starts(laid_out.marks)
    starts = starts[starts < len(laid_out.ids)]
    whole = ~np.isin(laid_out.ids[starts], (BOS, EOS))
    whole[0] &= piece.start == 0
    whole[-1] &= piece.stop == piece.units.num_units
    return laid_out.ids, starts, whole


def _batch(hidden: list[_Hidden], windows: list[list[int]]) -> Batch:
    ids = np.concatenate([window.ids for window in hidden])
    before = np.cumsum([0] + [len(window.ids) for window in hidden])
    words_before = np.cumsum([0] + [len(window.is_first) for window in hidden])
    starts = np.concatenate([window.starts[:-1] + offset for window, offset in zip(hidden, before, strict=False)])
    is_first = np.concatenate([window.is_first for window in hidden])
    marks = np.zeros(len(ids), dtype=np.uint8)
    marks[starts[~is_first]] = BEGINS_HERE
    targets = [window.targets + offset for window, offset in zip(hidden, words_before, strict=False)]
    labels = np.concatenate([window.labels for window in hidden])
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(labels),
        torch.from_numpy(np.append(starts[is_first], len(ids)).astype(np.int32)),
        int((labels != IGNORE).sum()),
        sum(num_bytes for _, num_bytes in windows),
        torch.tensor(windows, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(marks),
        torch.from_numpy(np.concatenate(targets)),
    )
