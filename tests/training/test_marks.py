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
from hnet.segmentation.rule import chunk_starts
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

Make = Callable[..., RunConfig]

PARTS: dict[str, dict[str, Any]] = {
    "space-like": {"boundary": {"type": "space_like"}},
    "words": {
        "boundary": {"type": "words"},
        "pool": {"type": "cross_attention", "query": "learned", "num_heads": 2},
        "unpool": {"type": "cross_attention", "num_heads": 2},
    },
    "words, separated": {"boundary": {"type": "words", "separators": 2}},
    "fixed, separated": {"boundary": {"type": "fixed", "stride": 5, "separators": 1}},
}
all_parts = pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())


def model(parts: dict[str, Any]) -> dict[str, Any]:
    attention = {"num_heads": 2, "rotary_dim": 8}
    outer = {"d_model": 32, "encoder": "t1", "decoder": "t1", "attention": attention} | parts
    return {"stages": [outer, {"d_model": 48, "main": "T1", "attention": attention}]}


def tree(config: RunConfig, parts: dict[str, Any], **engine: Any) -> dict[str, Any]:
    return config.model_dump(mode="json") | {"model": model(parts), "engine": engine}


@all_parts
def test_the_loss_is_that_of_the_laid_out_text(make_config: Make, parts: dict[str, Any]) -> None:
    with open_run(load_config(RunConfig, tree(make_config(), parts))) as run:
        batch = next(run.stream)
        assert batch.marks is not None
        with torch.no_grad():
            losses = run.engine.model.loss(batch.input_ids, batch.cu_seqlens, batch.labels, batch.marks)  # type: ignore[operator]
        result = run.train_step([batch], 1)
    nats = losses.cross_entropy.item() * batch.num_targets
    assert result.bits_per_byte == pytest.approx(nats / batch.target_bytes / math.log(2), rel=1e-6)
    text = batch.labels[(batch.labels != IGNORE) & (batch.labels != 253)]
    assert result.target_bytes == int((text != 255).sum())
    sequences = [marks.numpy() for marks in batch.marks.split(batch.cu_seqlens.diff().tolist())]
    assert result.stages[0].chunks == sum(int((chunk_starts(marks) < len(marks)).sum()) for marks in sequences)
    assert result.stages[0].bytes_per_chunk == pytest.approx(result.target_bytes / result.stages[0].chunks)


def steps(rank: int, config: dict[str, Any]) -> list[tuple[float, float]]:
    with open_run(load_config(RunConfig, config)) as run:
        results = [run.next_step() for _ in range(3)]
        return [(result.loss, result.grad_norm) for result in results]


@pytest.mark.parametrize("engine", [{}, {"balance": "windows"}, {"zero_stage": 3}, {"exchange_chunks": 2}], ids=str)
def test_two_ranks_are_one(make_config: Make, tmp_path: Path, engine: dict[str, Any]) -> None:
    parts = PARTS["words, separated"]
    alone = steps(0, tree(make_config(), parts))
    both = run_distributed(steps, 2, tree(make_config(f"output_dir={tmp_path / 'both'}"), parts, **engine))
    assert both[0] == both[1]
    for one, other in zip(alone, both[0], strict=True):
        assert other == pytest.approx(one, rel=2e-5)


@all_parts
def test_a_resumed_run_is_the_undisturbed_one(make_config: Make, tmp_path: Path, parts: dict[str, Any]) -> None:
    undisturbed = steps(0, tree(make_config(), parts))
    config = load_config(RunConfig, tree(make_config(f"output_dir={tmp_path / 'other'}"), parts))
    results = []
    for num_steps in (1, 2):
        with open_run(config) as run:
            results += [run.next_step() for _ in range(num_steps)]
            run.save()
    assert [(result.loss, result.grad_norm) for result in results] == undisturbed


def test_a_run_shows_its_text_without_separators(make_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    from hnet.training.loop import train

    config = tree(make_config("training.steps=2", "logging.sample_prompt=the"), PARTS["words, separated"])
    train(load_config(RunConfig, config))
    shown = capsys.readouterr().out
    assert "held-out text in its chunks" in shown and "bytes per chunk: stage 0" in shown
    page = (Path(config["output_dir"]) / "boundaries.html").read_text(encoding="utf-8")
    assert "\\xfd" not in page and "\\xfd" not in shown


@all_parts
def test_ranks_cannot_share_a_sequence(make_config: Make, parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"engine\.sequence_parallel 2 .* boundary"):
        load_config(RunConfig, tree(make_config(), parts, sequence_parallel=2))
