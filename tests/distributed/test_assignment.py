import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.distributed.assignment import assign, imbalance, plain_order
from hnet.errors import ConfigError


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_ranks=st.integers(1, 9),
    num_micro_batches=st.integers(1, 4),
    per_cell=st.integers(1, 5),
    sync=st.sampled_from(["micro_batch", "step"]),
    kind=st.sampled_from(["normal", "heavy", "equal", "zero", "two"]),
)
def test_every_window_once_and_never_worse(
    seed: int, num_ranks: int, num_micro_batches: int, per_cell: int, sync: str, kind: str
) -> None:
    draw = np.random.default_rng(seed)
    num_windows = num_ranks * num_micro_batches * per_cell
    costs = {
        "normal": np.abs(draw.normal(10, 2, num_windows)),
        "heavy": draw.pareto(1.5, num_windows),
        "equal": np.ones(num_windows),
        "zero": np.zeros(num_windows),
        "two": draw.choice([1.0, 5.0], num_windows),
    }[kind]
    result = assign(costs, num_ranks, num_micro_batches, sync=sync)
    assert result.shape == (num_ranks, num_micro_batches, per_cell)
    assert np.array_equal(np.sort(result, axis=None), np.arange(num_windows))
    plain = plain_order(num_windows, num_ranks, num_micro_batches)
    assert 1 - 1e-9 <= imbalance(costs, result, sync=sync) <= imbalance(costs, plain, sync=sync)
    assert np.array_equal(result, assign(costs.copy(), num_ranks, num_micro_batches, sync=sync))


@pytest.mark.parametrize("sync", ["micro_batch", "step"])
@pytest.mark.parametrize("num_ranks", [8, 64, 4096])
def test_near_the_lower_bound_on_random_costs(num_ranks: int, sync: str) -> None:
    costs = np.abs(np.random.default_rng(0).normal(1, 0.15, num_ranks * 8))
    plain = plain_order(costs.size, num_ranks, 2)
    assert imbalance(costs, plain, sync=sync) > 1.05
    assert imbalance(costs, assign(costs, num_ranks, 2, sync=sync), sync=sync) < 1.006


def test_one_window_a_cell_is_sorted_into_micro_batches() -> None:
    """With one window per rank and micro-batch, blocks of the sorted costs are the best that can be."""
    costs = np.random.default_rng(1).lognormal(0, 0.5, 16 * 4)
    best = np.sort(costs).reshape(4, 16).max(axis=1).sum() / (costs.sum() / 16)
    assert imbalance(costs, assign(costs, 16, 4)) == pytest.approx(best)


def test_optimal_on_a_case_by_hand() -> None:
    """10 + 1, 9 + 2, 8 + 3, 7 + 4 on two ranks: both ranks 22, and both micro-batches 11 to 11."""
    result = assign(np.array([10.0, 9, 8, 7, 4, 3, 2, 1]), 2, 2)
    assert imbalance(np.array([10.0, 9, 8, 7, 4, 3, 2, 1]), result) == 1.0


def test_plain_order_is_the_order_of_the_stream() -> None:
    assert plain_order(8, 2, 2).tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    costs = np.array([1.0, 1, 1, 1, 3, 1, 1, 1])
    assert imbalance(costs, plain_order(8, 2, 2)) == pytest.approx((2 + 4) / 5)
    assert imbalance(costs, plain_order(8, 2, 2), sync="step") == pytest.approx(6 / 5)


@pytest.mark.parametrize(
    ("costs", "message"),
    [(np.ones(7), "7 windows do not divide"), (-np.ones(8), "not negative"), (np.full(8, np.nan), "finite")],
)
def test_bad_input_is_an_error(costs: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assign(costs, 2, 2)
