"""Schedules: their values at the corners, and in between by the formula."""

import math

import pytest

from hnet.training.config import ScheduleConfig
from hnet.training.schedule import learning_rate_factor


def factors(num_steps: int, **settings: object) -> list[float]:
    config = ScheduleConfig.model_validate(settings)
    return [learning_rate_factor(config, step, num_steps) for step in range(1, num_steps + 1)]


def test_wsd_warms_up_stays_and_decays() -> None:
    values = factors(100, warmup=0.1, decay=0.2)
    assert values[:10] == [step / 10 for step in range(1, 11)]
    assert set(values[10:80]) == {1.0}
    assert values[80:] == [1 - math.sqrt(step / 21) for step in range(1, 21)]


def test_linear_decay_and_a_floor() -> None:
    values = factors(10, warmup=0.0, decay=0.5, decay_shape="linear", final=0.1)
    assert values == pytest.approx([1] * 5 + [0.1 + 0.9 * (1 - step / 6) for step in range(1, 6)])


def test_cosine() -> None:
    values = factors(20, type="cosine", warmup=0.25, final=0.2)
    assert values[4] == 1.0
    assert values[5:] == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * k / 16)) for k in range(1, 16)])
    assert values[5:] == sorted(values[5:], reverse=True)


def test_every_step_learns() -> None:
    for type_ in ("wsd", "cosine"):
        assert all(0 < value <= 1 for num_steps in (1, 2, 7) for value in factors(num_steps, type=type_))


def test_steps_outside_the_run_are_refused() -> None:
    for step in (0, 11):
        with pytest.raises(ValueError, match=r"not in 1\.\.10"):
            learning_rate_factor(ScheduleConfig(), step, 10)
