"""Byte2Word learns the sub-words of hidden words, then the labels of documents from what it has learnt."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.config import load_config
from hnet.errors import CheckpointError, ConfigError, DataError
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.loop import train
from hnet.training.run import open_run

Make = Callable[..., RunConfig]
FILLERS = ["the", "old", "king", "of", "the", "north", "rode", "out", "at", "dawn", "and", "came", "to", "a", "river"]
LABELS = {"type": "classification", "labels": ["0", "1"]}


def model(objective: dict[str, Any]) -> dict[str, Any]:
    outer = {
        "d_model": 16, "encoder": "", "decoder": "", "residual": "identity", "final_norms": [],
        "boundary": {"type": "words"}, "unpool": {"type": "none"},
        "pool": {"type": "cross_attention", "query": "learned", "num_heads": 2, "rotary_dim": 8},
    }  # fmt: skip
    attention = {"num_heads": 2, "rotary_dim": 8}
    inner = {"d_model": 32, "main": "T1", "main_mask": "bidirectional", "attention": attention}
    return {"objective": objective, "stages": [outer, inner]}


def tree(config: RunConfig, objective: dict[str, Any], **engine: Any) -> dict[str, Any]:
    data = config.data.model_dump(mode="json") | {"subwords": "bytes", "packing": "whole"}
    return config.model_dump(mode="json") | {"model": model(objective), "data": data, "engine": engine}


MASKED = {"type": "masked_words", "vocab_size": 256, "slots": 3}


@pytest.fixture
def pretraining(make_config: Make) -> dict[str, Any]:
    return tree(make_config("training.steps=15", "optimizer.learning_rate=1e-2"), MASKED)


@pytest.fixture
def reviews(make_config: Make, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Documents of ten words, of which one says the label."""
    draw = random.Random(0)
    for name, num_rows in (("train", 400), ("validation", 40)):
        rows = []
        for _ in range(num_rows):
            label = draw.randrange(2)
            words = draw.choices(FILLERS, k=9)
            words.insert(draw.randrange(9), ("bad", "good")[label])
            rows.append(json.dumps({"text": " ".join(words), "label": label}) + "\n")
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))

    def make(*overrides: str, **engine: Any) -> dict[str, Any]:
        made = tree(make_config(f"output_dir={tmp_path / 'labels'}", *overrides), LABELS, **engine)
        for split in ("train", "validation"):
            made["data"][split] = [{"path": str(tmp_path / f"{split}.jsonl"), "label_column": "label"}]
        return made

    return make


def steps(rank: int, config: dict[str, Any]) -> list[tuple[float, float, float]]:
    with open_run(load_config(RunConfig, config)) as run:
        results = [run.next_step() for _ in range(3)]
        return [(result.loss, result.grad_norm, *result.measures.values()) for result in results]


def test_it_learns_words_and_reports_what_it_measures(pretraining: dict[str, Any], read_rows: Any, capsys: Any) -> None:
    train(load_config(RunConfig, pretraining))
    rows = read_rows(Path(pretraining["output_dir"]))
    assert rows[-1]["masked_subword_cross_entropy"] < rows[0]["masked_subword_cross_entropy"] - 1.5
    assert rows[-1]["validation_masked_subword_accuracy"] > 0.1
    assert not [name for name in rows[-1] if "bits_per_byte" in name]
    assert rows[-1]["bytes_seen"] > 15 * 400
    shown = capsys.readouterr().out
    assert "nats/masked subword" in shown and "held-out nats per masked subword" in shown


def test_two_ranks_with_sharded_weights_are_one(pretraining: dict[str, Any], tmp_path: Path) -> None:
    alone = steps(0, pretraining)
    sharded = {"engine": {"zero_stage": 3}, "output_dir": str(tmp_path / "both")}
    both = run_distributed(steps, 2, pretraining | sharded)
    assert both[0] == both[1]
    for one, other in zip(alone, both[0], strict=True):
        assert other == pytest.approx(one, rel=3e-5)


def test_it_learns_labels(reviews: Any, read_rows: Any, tmp_path: Path) -> None:
    train(
        load_config(
            RunConfig, reviews("training.steps=60", "training.global_batch_bytes=2048", "optimizer.learning_rate=1e-2")
        )
    )
    rows = read_rows(tmp_path / "labels")
    assert rows[-1]["validation_label_accuracy"] > 0.9
    assert rows[-1]["validation_label_cross_entropy"] < rows[0]["label_cross_entropy"]


def test_labels_begin_where_words_ended_on_one_rank_and_two(
    pretraining: dict[str, Any], reviews: Any, caplog: Any, tmp_path: Path
) -> None:
    train(load_config(RunConfig, pretraining))
    pretrained = f"training.init_from={pretraining['output_dir']}"
    with caplog.at_level("INFO", logger="hnet"), open_run(load_config(RunConfig, reviews(pretrained))) as run:
        import hnet

        source = hnet.load(pretraining["output_dir"])
        taken = dict(run.engine.model.named_parameters())
        assert all((taken[name] == value).all() for name, value in source.named_parameters() if "head" not in name)
    assert "new: head.weight, head.bias" in caplog.text
    alone = steps(0, reviews(pretrained))
    both = run_distributed(steps, 2, reviews(pretrained, zero_stage=3))
    for one, other in zip(alone, both[0], strict=True):
        assert other == pytest.approx(one, rel=3e-5)


def test_what_cannot_be_begun_from_is_refused(make_config: Make, reviews: Any, tmp_path: Path) -> None:
    with open_run(make_config("training.steps=1")) as run:
        run.next_step()
        run.save()
        run.writer.wait()
    with pytest.raises(ConfigError, match=r"training\.init_from: no parameter of .*/run has the name and shape"):
        steps(0, reviews(f"training.init_from={tmp_path / 'run'}"))
    with pytest.raises(CheckpointError, match="no such checkpoint or run folder"):
        steps(0, reviews("training.init_from=nowhere"))


def test_labels_that_are_not_there_are_refused(reviews: Any, pretraining: dict[str, Any], tmp_path: Path) -> None:
    config = reviews()
    config["data"]["train"][0]["label_column"] = "stars"
    with pytest.raises(DataError, match="no column 'stars'"):
        steps(0, config)
    config["data"]["train"][0]["label_column"] = None
    with pytest.raises(DataError, match="has no labels, and the model is to learn them; name its label_column"):
        steps(0, config)
    config = reviews()
    config["model"]["objective"]["labels"] = ["0", "2"]
    with pytest.raises(DataError, match=r"has the label '1', and model\.objective\.labels has 0, 2"):
        steps(0, config)
    with pytest.raises(ConfigError, match=r"data\.packing: split cuts them; give data\.packing: whole"):
        load_config(RunConfig, reviews() | {"data": reviews()["data"] | {"packing": "split"}})
    with pytest.raises(ConfigError, match=r"engine\.balance moves labels with their units"):
        load_config(RunConfig, pretraining | {"engine": {"balance": "windows"}})
