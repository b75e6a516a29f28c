"""Entropy boundaries: the scorer in full and unit by unit, in steps of a model, in checkpoints and exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hnet
from hnet.config import load_config, save_config
from hnet.errors import CheckpointError, ConfigError, DataError
from hnet.interop.consolidate import consolidate
from hnet.model.boundaries.scorer import entropy
from hnet.model.config import ModelConfig
from hnet.testing.strategies import random_model
from hnet.training.config import RunConfig
from hnet.training.loop import train

ATTENTION = {"num_heads": 2, "rotary_dim": 8, "window": 15}
SCORER = {"vocab_size": 260, "stages": [{"d_model": 16, "main": "T1", "attention": ATTENTION}]}
CROSS = {"type": "cross_attention", "num_heads": 2, "residual": 2.0}
IDS = torch.tensor([254, *b"Entropy says where a chunk begins, unit by unit.", 255])


def blt(**boundary: Any) -> dict[str, Any]:
    outer = {
        "d_model": 16,
        "encoder": "T1",
        "decoder": "T2",
        "attention": ATTENTION,
        "residual": "identity",
        "pool": {**CROSS, "num_queries": 2},
        "unpool": {**CROSS, "num_keys": 2},
        "final_norms": ["decoder"],
        "boundary": {"type": "entropy", "scorer": SCORER, "threshold": 5.48, **boundary},
    }
    inner = {"d_model": 32, "main": "T1", "attention": ATTENTION, "final_norms": []}
    embedding = {"type": "hash_ngram", "rows": 101, "numbering": "blt"}
    return {"vocab_size": 260, "embedding": embedding, "stages": [outer, inner]}


@pytest.fixture
def scorer_run(tmp_path: Path) -> Path:
    """A scorer with weights that make a difference, saved as a checkpoint."""
    model = random_model(load_config(ModelConfig, SCORER), 1).float()
    folder = tmp_path / "scorer_run"
    folder.mkdir()
    save_config(model.config, folder / "config.yaml")
    save_file({name: weight.detach() for name, weight in model.named_parameters()}, folder / "model.safetensors")
    return folder


def test_entropy_is_that_of_the_distribution() -> None:
    logits = torch.randn(7, 260)
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy(logits), expected)


def test_tracker_gives_the_same_entropies(scorer_run: Path) -> None:
    rule = load_config(ModelConfig, blt(scorer_weights=str(scorer_run))).layout().rule
    assert rule is not None
    full, tracker = rule.scorer.entropies(IDS.numpy()), rule.scorer.tracker()
    assert np.ptp(full) > 0.2
    np.testing.assert_allclose([tracker.push(unit) for unit in IDS.tolist()], full, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("method", ["threshold", "monotone", "global_monotone"])
def test_steps_continue_a_prefill(scorer_run: Path, method: str) -> None:
    threshold = 0.05 if method == "monotone" else 5.13
    config = blt(scorer_weights=str(scorer_run), method=method, threshold=threshold)
    model = random_model(load_config(ModelConfig, config), 0)
    full = model(IDS)
    assert 3 < int(full.stages[0].boundary_mask.sum()) < len(IDS) - 3
    cache, tracker, length = model.new_cache(1), model.layout().tracker(), 9
    codes = torch.tensor([tracker.push(unit) for unit in IDS.tolist()])
    logits = [model.prefill(IDS[:length], torch.tensor([0, length], dtype=torch.int32), cache).logits]
    for i in range(length, len(IDS)):
        logits.append(model.step(IDS[i : i + 1], cache, marks=codes[i : i + 1])[0])
    torch.testing.assert_close(torch.cat(logits), full.logits, atol=1e-9, rtol=1e-9)


def test_checkpoints_and_exports_keep_the_scorer(tmp_path: Path, scorer_run: Path) -> None:
    (tmp_path / "text.txt").write_text("a text of some words, again and again. " * 200)
    tree = {
        "output_dir": str(tmp_path / "run"),
        "model": blt(scorer_weights=str(scorer_run), threshold=5.13),
        "data": {"train": str(tmp_path / "text.txt"), "sequence_length": 64},
        "training": {"steps": 2, "global_batch_bytes": 128, "log_every": 1},
        "logging": {"progress": False},
    }
    config = load_config(RunConfig, tree)
    marks = config.model.layout().rule.mark(IDS.numpy())
    train(config)
    # What is read from now on are the copies.
    scorer_run.rename(tmp_path / "moved")
    trained = hnet.load(tmp_path / "run")
    assert trained.layout().rule.mark(IDS.numpy()).tolist() == marks.tolist()
    consolidate(tmp_path / "run", tmp_path / "exported", max_shard_bytes=1 << 30)
    exported = hnet.load(tmp_path / "exported")
    torch.testing.assert_close(exported(IDS).logits, trained(IDS).logits)
    assert hnet.load(tmp_path / "exported" / "scorer")(IDS).logits.shape == (len(IDS), 260)
    assert len(hnet.generate(trained, ["a"], max_bytes=5)) == 1


def test_a_resumed_run_needs_the_same_scorer_wherever_it_lies(tmp_path: Path, scorer_run: Path) -> None:
    (tmp_path / "text.txt").write_text("a text of some words, again and again. " * 200)

    def config(weights: Path, steps: int) -> RunConfig:
        tree = {
            "output_dir": str(tmp_path / "run"),
            "model": blt(scorer_weights=str(weights), threshold=5.13),
            "data": {"train": str(tmp_path / "text.txt"), "sequence_length": 64},
            "training": {"steps": steps, "global_batch_bytes": 128, "log_every": 1},
            "logging": {"progress": False},
        }
        return load_config(RunConfig, tree)

    train(config(scorer_run, 2))
    with pytest.raises(DataError, match="the saved data position does not fit: layout was"):
        train(config(Path("random"), 4))
    moved = scorer_run.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="keeps its scorer: its folder scorer can be given here"):
        train(config(scorer_run, 4))
    train(config(moved, 3))
    train(config(tmp_path / "run" / "checkpoints" / "step-00000003" / "scorer", 4))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_weights_of_another_model_are_refused(scorer_run: Path) -> None:
    other = {"vocab_size": 260, "stages": [{**SCORER["stages"][0], "d_model": 32}]}
    config = load_config(ModelConfig, blt(scorer=other, scorer_weights=str(scorer_run)))
    with pytest.raises(CheckpointError, match="has shape"):
        config.layout().rule.mark(IDS.numpy())


def test_a_scorer_on_the_accelerator_is_opened_by_the_main_thread(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    load_config(ModelConfig, blt(scorer_weights=missing)).layout()
    with pytest.raises(CheckpointError, match="no such checkpoint or run folder"):
        load_config(ModelConfig, blt(scorer_weights=missing, device="accelerator")).layout()


def test_a_scorer_that_needs_boundaries_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs no boundaries itself"):
        load_config(ModelConfig, blt(scorer=blt()))
