"""Training of models that are told where chunks begin: the loss is that of the laid-out text, over its bytes."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hnet.config import load_config
from hnet.data.batch import IGNORE
from hnet.errors import ConfigError
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

Make = Callable[..., RunConfig]

BOUNDARIES = {
    "space-like": {"type": "space_like"},
    "words, separated": {"type": "words", "separators": 2},
    "fixed, separated": {"type": "fixed", "stride": 5, "separators": 1},
}
each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES.values(), ids=BOUNDARIES.keys())


def model(boundary: dict[str, Any]) -> dict[str, Any]:
    attention = {"num_heads": 2, "rotary_dim": 8}
    outer = {"d_model": 32, "encoder": "t1", "decoder": "t1", "attention": attention, "boundary": boundary}
    return {"stages": [outer, {"d_model": 48, "main": "T1", "attention": attention}]}


def tree(config: RunConfig, boundary: dict[str, Any], **engine: Any) -> dict[str, Any]:
    return config.model_dump(mode="json") | {"model": model(boundary), "engine": engine}


@each_boundary
def test_the_loss_is_that_of_the_laid_out_text(make_config: Make, boundary: dict[str, Any]) -> None:
    with open_run(load_config(RunConfig, tree(make_config(), boundary))) as run:
        batch = next(run.stream)
        assert batch.marks is not None
        with torch.no_grad():
            losses = run.engine.model.loss(batch.input_ids, batch.cu_seqlens, batch.labels, batch.marks)  # type: ignore[operator]
        result = run.train_step([batch], 1)
    nats = losses.cross_entropy.item() * batch.num_targets
    assert result.bits_per_byte == pytest.approx(nats / batch.target_bytes / math.log(2), rel=1e-6)
    text = batch.labels[(batch.labels != IGNORE) & (batch.labels != 253)]
    assert result.target_bytes == int((text != 255).sum())
    assert result.stages[0].chunks == int(batch.marks.count_nonzero()) + len(batch.cu_seqlens) - 1
    assert result.stages[0].bytes_per_chunk == pytest.approx(result.target_bytes / result.stages[0].chunks)


def steps(rank: int, config: dict[str, Any]) -> list[tuple[float, float]]:
    with open_run(load_config(RunConfig, config)) as run:
        results = [run.next_step() for _ in range(3)]
        return [(result.loss, result.grad_norm) for result in results]


@pytest.mark.parametrize("engine", [{}, {"balance": "windows"}, {"zero_stage": 3}, {"exchange_chunks": 2}], ids=str)
def test_two_ranks_are_one(make_config: Make, tmp_path: Path, engine: dict[str, Any]) -> None:
    boundary = BOUNDARIES["words, separated"]
    alone = steps(0, tree(make_config(), boundary))
    both = run_distributed(steps, 2, tree(make_config(f"output_dir={tmp_path / 'both'}"), boundary, **engine))
    assert both[0] == both[1]
    for one, other in zip(alone, both[0], strict=True):
        assert other == pytest.approx(one, rel=2e-5)


def test_a_run_shows_its_text_without_separators(make_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    from hnet.training.loop import train

    config = tree(make_config("training.steps=2", "logging.sample_prompt=the"), BOUNDARIES["words, separated"])
    train(load_config(RunConfig, config))
    shown = capsys.readouterr().out
    assert "held-out text in its chunks" in shown and "bytes per chunk: stage 0" in shown
    page = (Path(config["output_dir"]) / "boundaries.html").read_text(encoding="utf-8")
    assert "\\xfd" not in page and "\\xfd" not in shown


@each_boundary
def test_ranks_cannot_share_a_sequence(make_config: Make, boundary: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 2 .* boundary"):
        load_config(RunConfig, tree(make_config(), boundary, sequence_parallel=2))
