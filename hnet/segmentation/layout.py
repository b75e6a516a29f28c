"""Text units to model units: the marks of a rule, or separators before the chunks that it finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnet.errors import DataError
from hnet.segmentation.rule import BEGINS_HERE, BEGINS_NEXT, BOS, NOTHING_NEW, Ids, Marks, Rule, Tracker, chunk_starts

IGNORE = -100
"""Label of a position that predicts nothing."""

_UNUSED_BYTES = range(0xF5, BOS)
"""Occur in no valid UTF-8 and are neither BOS nor EOS."""


@dataclass(frozen=True, slots=True)
class LaidOut:
    """One sequence as the model reads it: N model units of n text units."""

    ids: Ids
    """(N,) int64."""
    labels: Ids
    """(N,) int64: the next model unit, or `IGNORE`."""
    marks: Marks | None
    """(N,) uint8; None without a rule."""
    source: NDArray[np.int64]
    """(N,) index of the text unit that a model unit is; -1 for a separator."""


@dataclass(frozen=True)
class Layout:
    """How a model reads text.

    rule: None where the model finds chunks itself.
    separators: units put before every chunk, the first of a sequence included; byte values that occur in no UTF-8.
    With them the rule has spoken: a chunk begins where a first separator is, which has code 2.
    predict_separator: whether the model predicts that a chunk ends, as a symbol; False: the rule counts, and must know
    a chunk one unit before it begins.
    """

    rule: Rule | None = None
    separators: tuple[int, ...] = ()
    predict_separator: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for separators that text may hold, or that nothing could place in generation."""
        wrong = [unit for unit in self.separators if unit not in _UNUSED_BYTES]
        if wrong or len(set(self.separators)) != len(self.separators):
            raise ValueError(
                f"separators are {self.separators}; give different units of {_UNUSED_BYTES[0]} to {_UNUSED_BYTES[-1]}, "
                "which occur in no UTF-8"
            )
        if self.separators and self.rule is None:
            raise ValueError("separators need a rule that says where chunks begin; this model finds its chunks itself")
        if self.separators and not self.predict_separator and self.rule is not None and self.rule.look_ahead >= 0:
            raise ValueError(
                f"{self.rule} knows a chunk {self.rule.look_ahead} units after its first unit, too late to place a "
                "separator before it; set predict_separator, or take a rule that knows one unit before (fixed)"
            )

    @property
    def reach(self) -> int:
        """Units after a sequence that `lay_out` reads, where it is cut there."""
        return 1 if self.rule is None else max(1, self.rule.look_ahead + 1)

    @property
    def never_sampled(self) -> tuple[int, ...]:
        """Units that a model may not choose: `LayoutTracker.forced` says where they come."""
        return self.separators[1:] if self.predict_separator else self.separators

    def lay_out(self, ids: Ids, following: Ids | Sequence[int] = ()) -> LaidOut:
        """One sequence `ids` (n,), at least one unit, of a document that goes on with `following` (more is not read).

        The last label is that of the document, also in a word that is cut. Where the next unit begins a chunk, its
        separators end this sequence, so that it is predicted with what is before it, and once: what precedes the first
        unit of a sequence predicts nothing. Nor does a unit before a separator that is not predicted.
        Raises DataError for text that holds a separator.
        """
        following = np.asarray(following, dtype=np.int64)[: self.reach]
        text = np.concatenate([ids, following])
        marks = None if self.rule is None else self.rule.mark(text)
        if marks is not None and self.separators:
            self._refuse_separators(text)
            return self._separate(ids, text, _begins(marks, len(ids), bool(following.size)))
        labels = np.full(len(ids), IGNORE, dtype=np.int64)
        labels[: len(text) - 1] = text[1 : len(ids) + 1]
        return LaidOut(ids, labels, None if marks is None else marks[: len(ids)], np.arange(len(ids)))

    def marks_of(self, units: Ids) -> Marks:
        """(N,) codes of model units (N,), separators included, as `lay_out` gives them. Raises ValueError without a
        rule."""
        if self.rule is None:
            raise ValueError("this layout has no rule: the model finds its chunks itself")
        if not self.separators:
            return self.rule.mark(units)
        marks = np.where(units == self.separators[0], np.uint8(BEGINS_HERE), np.uint8(NOTHING_NEW))
        marks[:1] = NOTHING_NEW
        return marks

    def tracker(self) -> "LayoutTracker":
        """The same marks, model unit by model unit, and what must come next."""
        return LayoutTracker(self)

    def strip(self, ids: Ids) -> Ids:
        """The text units of model units."""
        return ids[~np.isin(ids, self.separators)] if self.separators else ids

    def _separate(self, ids: Ids, text: Ids, begins: NDArray[np.bool_]) -> LaidOut:
        """`begins` (n + 1,): whether text unit i begins a chunk; the last is the one after the sequence."""
        num = len(self.separators)
        place = np.arange(len(ids) + 1) + num * np.cumsum(begins)
        source = np.full(int(place[-1]), -1, dtype=np.int64)
        source[place[:-1]] = np.arange(len(ids))
        units = np.empty(len(source), dtype=np.int64)
        units[source >= 0] = ids
        units[source < 0] = np.tile(self.separators, np.count_nonzero(begins))
        labels = np.full(len(units), IGNORE, dtype=np.int64)
        labels[:-1] = units[1:]
        if len(text) > len(ids):
            labels[-1] = text[len(ids)]
        labels[np.isin(labels, self.never_sampled)] = IGNORE
        labels[:num] = IGNORE
        return LaidOut(units, labels, self.marks_of(units), source)

    def _refuse_separators(self, text: Ids) -> None:
        found = np.isin(text, self.separators)
        if found.any():
            raise DataError(
                f"the text has byte {int(text[found][0])}, which is not UTF-8 and marks chunks in this model; "
                "remove what is not UTF-8 from the text"
            )


PLAIN = Layout()
"""Units as they are, for models that find chunks themselves."""


class LayoutTracker:
    """Follows one sequence of model units in generation."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rule: Tracker | None = None if layout.rule is None else layout.rule.tracker()
        self._first = True
        self._num_read = 0
        """Separators of a chunk that have been read, while more of them must come."""
        self._due = bool(layout.separators)
        """Whether a first separator must come next; a sequence begins with it."""
        self._empty = False
        """Whether the chunk has nothing but its separators."""

    def push(self, unit: int) -> int:
        """Code of this model unit. Raises ValueError if another one was forced, or it was to come only where forced."""
        layout, forced = self._layout, self.forced()
        if (forced is not None and unit != forced) or (forced is None and unit in self.excluded()):
            wanted = f"any but {self.excluded()}" if forced is None else forced
            raise ValueError(f"unit {unit} came where the layout {layout} wants {wanted}")
        first, self._first = self._first, False
        self._empty = unit in layout.separators
        if self._empty:
            self._due, self._num_read = False, (self._num_read + 1) % len(layout.separators)
            return BEGINS_HERE if unit == layout.separators[0] and not first else NOTHING_NEW
        code = NOTHING_NEW if self._rule is None else self._rule.push(unit)
        if not layout.separators:
            return code
        self._due = code == BEGINS_NEXT and not layout.predict_separator
        return NOTHING_NEW

    def forced(self) -> int | None:
        """The unit that must come next; None: the model chooses one that is not in `excluded`."""
        return self._layout.separators[self._num_read] if self._num_read or self._due else None

    def excluded(self) -> tuple[int, ...]:
        """What the model may not choose now: separators that are forced where they come, and an empty chunk's end."""
        return self._layout.separators if self._empty else self._layout.never_sampled


def _begins(marks: Marks, num_units: int, goes_on: bool) -> NDArray[np.bool_]:
    """(num_units + 1,) whether each unit begins a chunk; of the last only if the document goes on."""
    starts = chunk_starts(marks)
    begins = np.zeros(num_units + 1, dtype=np.bool_)
    begins[starts[starts < num_units + goes_on]] = True
    return begins
