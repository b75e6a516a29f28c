"""A loss or gradient that is not finite changes nothing, on any engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hnet.config import load_config, save_config
from hnet.errors import UserError
from hnet.testing.ranks import run_distributed
from hnet.training.callbacks.nonfinite import StopAfterNonfinite
from hnet.training.config import RunConfig
from hnet.training.run import Run, open_run

Make = Callable[..., RunConfig]


def spoil(run: Run, steps: set[int], value: float = float("nan")) -> None:
    """Make the gradient of the head `value` in these steps."""
    head = run.engine.model.head  # type: ignore[union-attr]
    head.weight.register_hook(lambda grad: grad * value if run.state.step + 1 in steps else grad)  # type: ignore[union-attr]


def test_a_spoiled_step_is_skipped_and_counted(make_config: Make) -> None:
    with open_run(make_config()) as run:
        spoil(run, {2}, float("inf"))
        run.next_step()
        before = {name: p.detach().clone() for name, p in run.engine.model.named_parameters()}
        skipped = run.next_step()
        assert skipped.skipped
        assert all(torch.equal(p, before[name]) for name, p in run.engine.model.named_parameters())
        assert (run.state.step, run.state.skipped_steps, run.state.nonfinite_in_a_row) == (2, 1, 1)
        assert not run.next_step().skipped
        assert (run.state.num_updates, run.state.nonfinite_in_a_row) == (2, 0)


def test_an_infinite_loss_is_skipped_even_where_its_gradient_is_finite(make_config: Make) -> None:
    with open_run(make_config()) as run:
        with torch.no_grad():
            run.engine.model.embedding.weight.fill_(float("inf"))  # type: ignore[union-attr, operator]
        assert run.next_step().skipped


def test_the_run_stops_after_too_many_in_a_row(make_config: Make) -> None:
    with open_run(make_config("training.max_nonfinite_steps=3")) as run:
        spoil(run, {1, 2, 3})
        for _ in range(2):
            StopAfterNonfinite().on_step(run, run.next_step())
        third = run.next_step()
        with pytest.raises(UserError, match=r"step 3: .* 3 steps in a row .*learning_rate"):
            StopAfterNonfinite().on_step(run, third)


def skip_second_step(rank: int, config_file: str, overrides: list[str]) -> list[tuple[bool, float]]:
    config = load_config(RunConfig, config_file, overrides)
    with open_run(config) as run:
        if rank == 1:
            spoil(run, {2})
        return [(result.skipped, result.loss) for result in (run.next_step() for _ in range(3))]


@pytest.mark.parametrize("zero_stage", [None, 1, 3])
def test_all_ranks_skip_when_one_is_spoiled(make_config: Make, tmp_path: Path, zero_stage: Any) -> None:
    config_file = tmp_path / "run.yaml"
    save_config(make_config(), config_file)
    overrides = [] if zero_stage is None else [f"engine.zero_stage={zero_stage}"]
    first, second = run_distributed(skip_second_step, 2, str(config_file), overrides)
    assert first == second
    assert [skipped for skipped, _ in first] == [False, True, False]
