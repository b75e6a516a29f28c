"""Next-word accuracy: the share of words that a model would have written right, byte by byte.

It compares models of different chunks and vocabularies of separators (HAT, arXiv 2501.10322, section 3; Learn Your
Tokens, arXiv 2310.11628, section 4): words are those of a rule, whatever the model's own chunks are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet.segmentation.layout import IGNORE
from hnet.segmentation.rule import Ids, Rule, chunk_starts

NO_WORD = -1


class WordCounts(NamedTuple):
    """Counts add over sequences and ranks."""

    right: int
    total: int

    @property
    def accuracy(self) -> float:
        """In [0, 1]; NaN without words."""
        return self.right / self.total if self.total else float("nan")


def words_of_labels(ids: Ids, labels: Ids, rule: Rule, separators: Sequence[int] = ()) -> NDArray[np.int64]:
    """Which word every label belongs to, of one sequence that is laid out: (N,) int64, `NO_WORD` for none.

    A separator that is a target says that the word before it has ended, and belongs to that word. A word without all
    its labels counts for nothing: the one of the first unit, which nothing predicts, and the last, which may be cut.

    Args:
        ids: (N,) model units.
        labels: (N,) the unit after each, or `IGNORE` where none is a target.
        rule: what a word is, in the text without `separators`.
        separators: units that are not of the text.
    """
    is_text = (labels != IGNORE) & ~np.isin(labels, separators)
    text = np.concatenate([ids[~np.isin(ids, separators)][:1], labels[is_text]])
    begins = np.zeros(len(text) + 1, dtype=np.int64)
    begins[chunk_starts(rule.mark(text))] = 1
    number = np.cumsum(begins[:-1]) - 1
    last = number.max(initial=0)
    # As many units of the text as labels up to here: the word of the latest of them.
    words = number[np.cumsum(is_text)]
    return np.where((labels != IGNORE) & (words > 0) & (words < last), words, NO_WORD)


def count_right_words(logits: Tensor, labels: Tensor, words: Tensor) -> WordCounts:
    """Words of which every label is the most likely unit, given the true units before it.

    Args:
        logits: (T, V).
        labels: (T,) int64.
        words: (T,) int64, any number that a word's labels share and no other's; `NO_WORD` (-1) for none.
    Raises:
        ValueError: shapes that do not agree.
    """
    if logits.shape[:1] != labels.shape or labels.shape != words.shape:
        shapes = [tuple(part.shape) for part in (logits, labels, words)]
        raise ValueError(f"logits (T, V), labels (T,) and words (T,) must agree, got {shapes}")
    counted = words != NO_WORD
    number = words[counted].unique(return_inverse=True)[1]
    wrong = (logits[counted].argmax(-1) != labels[counted]).long()
    total = int(number.max()) + 1 if number.numel() else 0
    mistakes = torch.zeros(total, dtype=torch.long, device=logits.device).index_add_(0, number, wrong)
    return WordCounts(int((mistakes == 0).sum()), total)
