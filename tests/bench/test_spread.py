import pytest

from hnet.bench.spread import Spread


def test_quartiles() -> None:
    assert Spread.of([5, 1, 2, 4, 3]) == Spread(3, 2, 4, 1, 5, 5)
    assert Spread.of([7.0]) == Spread(7, 7, 7, 7, 7, 1)
    with pytest.raises(ValueError, match="at least one"):
        Spread.of([])
