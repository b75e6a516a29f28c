"""The permutation is one, depends on its key, and stays what it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet.data.shuffle import Permutation, derive_key


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_is_a_bijection(size: int, key: int) -> None:
    images = Permutation(size, key)(np.arange(size, dtype=np.int64))
    assert sorted(images.tolist()) == list(range(size))


@given(st.integers(2, 10**15), st.integers(0, 2**32))
def test_image_does_not_depend_on_what_is_asked_with_it(size: int, key: int) -> None:
    permutation = Permutation(size, key)
    positions = np.unique(np.linspace(0, size - 1, 20).astype(np.int64))
    together = permutation(positions)
    alone = [int(permutation(positions[i : i + 1])[0]) for i in range(len(positions))]
    assert together.tolist() == alone
    assert together.min() >= 0 and together.max() < size


def test_every_order_of_four_is_about_equally_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    trials = 4800
    for key in range(trials):
        order = tuple(Permutation(4, derive_key(7, key))(np.arange(4, dtype=np.int64)).tolist())
        counts[order] = counts.get(order, 0) + 1
    expected = trials / 24
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 24
    assert chi_square < 58  # 23 degrees of freedom: exceeded once in 10,000 by a uniform choice


def test_keys_depend_on_every_part_and_its_place() -> None:
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (2**63, 5)]
    assert len({derive_key(*part) for part in parts}) == len(parts)


@pytest.mark.parametrize(("size", "key", "first"), [(10, 1, [4, 0, 5, 8, 1]), (1000, 42, [261, 333, 355, 727, 941])])
def test_the_order_is_pinned(size: int, key: int, first: list[int]) -> None:
    """A change here would change the data of every run that resumes."""
    assert Permutation(size, key)(np.arange(5, dtype=np.int64)).tolist() == first
