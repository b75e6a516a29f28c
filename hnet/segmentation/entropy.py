"""Chunks where a small language model cannot tell the next unit (BLT, Pagnoni et al. 2024, arXiv 2412.09871, 2.3)."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hnet.segmentation.rule import BEGINS_NEXT, NOTHING_NEW, Ids, Marks, as_bytes

Method = Literal["threshold", "monotone", "global_monotone"]


class ScorerTracker(Protocol):
    """Reads a sequence unit by unit."""

    def push(self, unit: int) -> float:
        """Entropy in nats of what follows this unit."""
        ...


class Scorer(Protocol):
    """A language model that says how uncertain the next unit is. Equal ones have equal `repr`."""

    def entropies(self, ids: Ids) -> NDArray[np.float32]:
        """(N,) nats of the prediction after each of the units (N,)."""
        ...

    def tracker(self) -> ScorerTracker:
        """The same, unit by unit."""
        ...


@dataclass(frozen=True)
class EntropyRule:
    """Unit i begins a chunk by its entropy H_i = H(x_i | x_<i), in nats, which is known at unit i - 1.

    The first two units always begin one, as in facebookresearch/blt: the first chunk is one unit. For i >= 2,

    threshold: H_i > threshold (eq. 1);
    monotone: H_i - H_{i-1} > threshold (eq. 2), and at unit 2;
    global_monotone: both, with `rise` in the second, for i >= 4; and at unit 2.

    Units 2 and 3 are what the released code does, where the first entropy has none to be compared with. A chunk of
    `max_units` ends there, whatever its entropies.
    """

    scorer: Scorer
    method: Method = "threshold"
    threshold: float = 1.335442066192627
    rise: float = 0.0
    max_units: int | None = None

    @property
    def look_ahead(self) -> int:
        """-1: what is predicted at a unit decides about the next."""
        return -1

    def mark(self, ids: Ids) -> Marks:
        """Codes (N,) of the units (N,)."""
        as_bytes(ids)
        return self.mark_entropies(self.scorer.entropies(ids))

    def mark_entropies(self, entropies: NDArray[np.float32]) -> Marks:
        """Codes (N,) where the entropies (N,) after each unit are known."""
        begins = self._wanted(entropies)
        begins[:1] = True
        if self.max_units is not None:
            begins = _cut(begins, self.max_units)
        return np.where(begins, np.uint8(BEGINS_NEXT), np.uint8(NOTHING_NEW))

    def tracker(self) -> "EntropyTracker":
        """The same codes, unit by unit."""
        return EntropyTracker(self)

    def _wanted(self, entropies: NDArray[np.float32]) -> NDArray[np.bool_]:
        high = entropies > np.float32(self.threshold)
        if self.method == "threshold":
            return high
        rises = np.ones(len(entropies), dtype=np.bool_)
        least = self.threshold if self.method == "monotone" else self.rise
        rises[1:] = np.diff(entropies) > np.float32(least)
        if self.method == "global_monotone":
            rises &= high
            rises[2:3] = False
        rises[1:2] = True
        return rises


class EntropyTracker:
    """Keeps what the rule compares: the last entropy, and how long the chunk is."""

    def __init__(self, rule: EntropyRule) -> None:
        self._rule, self._scorer = rule, rule.scorer.tracker()
        self._num_units, self._length = 0, 0
        self._last = np.float32(0)

    def push(self, unit: int) -> int:
        """Code of this unit."""
        entropy = np.float32(self._scorer.push(unit))
        begins = self._wanted(entropy)
        self._num_units, self._length, self._last = self._num_units + 1, self._length + 1, entropy
        if not begins and self._length != self._rule.max_units:
            return NOTHING_NEW
        self._length = 0
        return BEGINS_NEXT

    def _wanted(self, entropy: np.float32) -> bool:
        rule, number = self._rule, self._num_units
        if number == 0 or (number == 1 and rule.method != "threshold"):
            return True
        high = bool(entropy > np.float32(rule.threshold))
        if rule.method == "threshold":
            return high
        rise = entropy - self._last
        if rule.method == "monotone":
            return bool(rise > np.float32(rule.threshold))
        return number > 2 and high and bool(rise > np.float32(rule.rise))


def _cut(begins: NDArray[np.bool_], max_units: int) -> NDArray[np.bool_]:
    """(N,) whether a chunk begins after each unit, with none longer than `max_units`."""
    # Chunk i is the units starts[i] to starts[i + 1] - 1.
    starts = np.concatenate([[0], np.flatnonzero(begins) + 1, [len(begins) + 1]])
    begins = begins.copy()
    for start, stop in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        begins[start + max_units - 1 : stop - 1 : max_units] = True
    return begins
