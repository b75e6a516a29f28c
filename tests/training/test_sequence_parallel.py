"""Ranks that share micro-batches train as one process does, under every engine."""

from collections.abc import Callable
from typing import Any

import pytest

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.testing.ranks import run_distributed
from hnet.training.callbacks.validation import Validation
from hnet.training.config import RunConfig
from hnet.training.run import open_run

Make = Callable[..., RunConfig]
STEPS = 5


def train(rank: int, tree: dict[str, Any]) -> dict[str, list[float]]:
    """The curve of every statistic, and the held-out bits per byte after the last step."""
    with open_run(load_config(RunConfig, tree)) as run:
        validation = Validation()
        validation.on_start(run)
        results = [run.next_step() for _ in range(STEPS)]
        validation.on_step(run, results[-1])
        assert set(run.extras) == {"validation_bits_per_byte"}
        bits = [float(value) for value in run.extras.values() if isinstance(value, float)]
    return {
        "loss": [result.loss for result in results],
        "ratio loss": [stage.ratio_loss for result in results for stage in result.stages],
        "grad_norm": [result.grad_norm for result in results],
        "counts": [float(count) for result in results for count in (*result.stage_units, result.target_bytes)],
        "context": [result.context for result in results],
        "validation": bits,
    }


@pytest.mark.parametrize(
    ("ranks", "engine", "scope"),
    [
        (2, "zero_stage=null", "micro_batch"),
        (2, "zero_stage=0", "global_batch"),
        (2, "zero_stage=1", "micro_batch"),
        (4, "zero_stage=3", "micro_batch"),
        (2, "fsdp=true", "global_batch"),
    ],
)
def test_ranks_that_share_micro_batches_have_the_curves_of_one(
    make_config: Make, ranks: int, engine: str, scope: str
) -> None:
    options = [f"training.steps={STEPS}", f"training.ratio_loss_scope={scope}", "training.micro_batch_bytes=256"]
    options += ["data.packing=split", "data.validation_bytes=300"]
    expected = train(0, make_config(*options).model_dump(mode="json"))
    shared = make_config(*options, "engine.sequence_parallel=2", f"engine.{engine}")
    for curves in run_distributed(train, ranks, shared.model_dump(mode="json")):
        assert curves["counts"] == expected["counts"]
        for name, values in expected.items():
            assert curves[name] == pytest.approx(values, rel=1e-4), name


def losses(rank: int, tree: dict[str, Any], num_steps: int) -> list[float]:
    """Of the next steps of the run, then a checkpoint."""
    with open_run(load_config(RunConfig, tree)) as run:
        results = [run.next_step().loss for _ in range(num_steps)]
        run.save()
    return results


def test_a_run_goes_on_with_other_numbers_of_ranks_and_pieces(make_config: Make) -> None:
    alone, elsewhere = make_config(), make_config("output_dir=" + make_config().output_dir + "-alone")
    shared = make_config("engine.sequence_parallel=2").model_dump(mode="json")
    expected = losses(0, elsewhere.model_dump(mode="json"), 4)
    first = run_distributed(losses, 2, shared, 2)[0]
    assert [*first, *losses(0, alone.model_dump(mode="json"), 2)] == pytest.approx(expected, rel=1e-5)


def test_more_ranks_than_heads_is_an_error(make_config: Make) -> None:
    for option in (
        "model.stages.0.decoder_mask=chunk_causal",
        "model.stages.0.unpool={type: cross_attention, num_heads: 4}",
    ):
        with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 2 cuts sequences inside chunks"):
            make_config("engine.sequence_parallel=2", option)
    with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 2 cuts sequences between units"):
        make_config("engine.sequence_parallel=2", "model.embedding={type: hash_ngram, rows: 11}")
    with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 8 .* at most 4"):
        make_config("engine.sequence_parallel=8")


def test_a_number_that_does_not_divide_the_ranks_is_an_error(make_config: Make) -> None:
    run = open_run(make_config("engine.sequence_parallel=2"))
    with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 2 must divide .* processes, which is 1"), run:
        pass
