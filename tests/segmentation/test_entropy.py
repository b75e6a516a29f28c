"""Entropy rules: what each method compares, in a loop; incremental and in full; right-stable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hnet.segmentation.entropy import EntropyRule, Method
from hnet.segmentation.rule import BEGINS_NEXT, chunk_starts


class Table:
    """A scorer whose entropy after unit u is u / 64 nats."""

    def entropies(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return ids.astype(np.float32) / 64

    def tracker(self) -> "Table":
        return self

    def push(self, unit: int) -> float:
        return unit / 64


def expected_starts(ids: list[int], method: Method, threshold: float, rise: float, max_units: int | None) -> list[int]:
    """Chunk starts by the definition; position len(ids) is that of the unit to come."""
    entropy = [None, *(unit / 64 for unit in ids)]
    starts = [0]
    for i in range(1, len(ids) + 1):
        now, before = entropy[i], entropy[i - 1]
        if i == 1:
            begins = True
        elif method == "threshold":
            begins = now > threshold
        elif i == 2:
            begins = True
        elif method == "monotone":
            begins = now - before > threshold
        else:
            begins = i > 3 and now > threshold and now - before > rise
        if begins or i - starts[-1] == max_units:
            starts.append(i)
    return starts


units = st.lists(st.integers(0, 255), min_size=1, max_size=40)
methods = st.sampled_from(["threshold", "monotone", "global_monotone"])


@given(units, methods, st.floats(0.1, 3), st.floats(-1, 1), st.none() | st.integers(1, 6))
def test_chunks_begin_where_the_definition_says(
    ids: list[int], method: Method, threshold: float, rise: float, max_units: int | None
) -> None:
    rule = EntropyRule(Table(), method, float(np.float32(threshold)), float(np.float32(rise)), max_units)
    marks = rule.mark(np.array(ids))
    assert chunk_starts(marks).tolist() == expected_starts(ids, method, rule.threshold, rule.rise, max_units)
    tracker = rule.tracker()
    assert [tracker.push(unit) for unit in ids] == marks.tolist()
    half = len(ids) // 2
    assert rule.mark(np.array(ids[:half], dtype=np.int64)).tolist() == marks[:half].tolist()


def test_first_two_units_always_begin_chunks() -> None:
    marks = EntropyRule(Table(), threshold=100.0).mark(np.zeros(5, dtype=np.int64))
    assert marks.tolist() == [BEGINS_NEXT, 0, 0, 0, 0]


def test_units_beyond_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="unit 256 is no byte"):
        EntropyRule(Table()).mark(np.array([256]))
