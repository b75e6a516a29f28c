"""Replays of chunk counts on many ranks."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import hnet
from hnet.cli import main
from hnet.config import load_config
from hnet.distributed.chunk_counts import ChunkCounts
from hnet.distributed.chunk_predictor import NUM_FEATURES
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig
from hnet_launch.plan.simulate import simulate


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return load_config(ModelConfig, "hnet_1stage_L")


def counts(num_windows: int, noise: float) -> ChunkCounts:
    """Windows of two languages that take turns in runs: half a chunk or a quarter for each of their bytes."""
    draw = np.random.default_rng(0)
    share = np.repeat(draw.random(-(-num_windows // 4)), 4)[:num_windows]
    first = np.round(4096 * share)
    features = np.zeros((num_windows, NUM_FEATURES))
    features[:, 97], features[:, 200] = first, 4096 - first
    chunks = 0.5 * first + 0.25 * (4096 - first)
    chunks = np.clip(chunks + draw.normal(0, noise, num_windows) * chunks, 1, 4096).astype(np.int64)
    return ChunkCounts(np.stack([np.full(num_windows, 4096), chunks], 1), features, np.full(num_windows, 4096.0))


def test_balancing_cuts_what_the_slowest_rank_costs(model: ModelConfig) -> None:
    result = simulate(counts(1024, 0.01), model, [8, 64], windows_per_rank=4, micro_batches=2)
    assert [outcome.ranks for outcome in result.outcomes] == [8, 64]
    for outcome in result.outcomes:
        for lost in outcome.lost.values():
            assert lost["oracle"] <= lost["predicted"] < 0.03 < 0.08 < lost["plain"]
            assert lost["exchanged"] < lost["predicted"]
        plain, predicted = (outcome.stage_imbalance[order] for order in ("plain", "predicted"))
        assert plain[0] == pytest.approx(predicted[0]) == pytest.approx(1)
        assert 1 <= predicted[1] < plain[1]
    assert result.prediction_error < 0.02


def test_equal_windows_lose_nothing(model: ModelConfig) -> None:
    same = counts(64, 0.0)
    same.units[:] = [4096, 1000]
    result = simulate(same, model, [8], windows_per_rank=2, micro_batches=1)
    assert result.cost_variation == 0
    assert all(value == pytest.approx(0) for lost in result.outcomes[0].lost.values() for value in lost.values())


def test_predictions_never_look_ahead(model: ModelConfig) -> None:
    """Where bytes say nothing of chunks, prediction is no better than the order of the stream, also on few windows."""
    blind = counts(256, 0.0)
    draw = np.random.default_rng(1)
    blind.units[:, 1] = draw.integers(500, 1500, 256)
    blind.features[:, :256] = draw.multinomial(4096, np.full(256, 1 / 256), 256)
    lost = simulate(blind, model, [512], windows_per_rank=4, micro_batches=1).outcomes[0].lost["step"]
    assert lost["oracle"] < 0.05 < 0.15 < lost["predicted"]


def test_command_writes_json_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded, report, picture = tmp_path / "counts.npz", tmp_path / "out.json", tmp_path / "out.png"
    counts(256, 0.02).save(recorded)
    (folder := tmp_path / "folder.png").mkdir()
    words = ["plan", "fineweb_edu", "--simulate", str(recorded), "--ranks", "8,16"]
    assert main([*words, "--json", str(report), "--png", str(picture)]) == 0
    written = json.loads(report.read_text())
    outcomes, made_with = written["outcomes"], written["made_with"]
    assert made_with["counts"] == {"file": "counts.npz", "sha256": hashlib.sha256(recorded.read_bytes()).hexdigest()}
    assert made_with["hnet"] == hnet.__version__ and made_with["numpy"] == np.__version__
    assert len(made_with["model"]["stages"]) == 2 and "commit" in made_with
    assert f"{outcomes[1]['lost']['step']['plain']:.2%}" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    for extra, expected in (
        (["--micro-batches", "3"], "8 windows per rank do not divide into 3"),
        (["--ranks", "0"], "--ranks: give integers of at least 1"),
        (["--ranks", "a"], "--ranks 'a': give integers with commas between, such as 8,64"),
        (["--ranks", "8.5"], "--ranks '8.5': give integers"),
        (["--micro-batches", "0"], "--micro-batches: give integers of at least 1"),
        (["--exchange", "3"], "groups of 3 ranks that exchange chunks do not divide"),
        (["model=hnet_2stage_L"], "a model of 2 stages, the run's has 3"),
        (["--png", str(tmp_path / "no" / "x.png")], "does not exist"),
        (["--png", str(folder)], "cannot be written"),
    ):
        assert main([*words, *extra]) == 2
        assert expected in capsys.readouterr().err


def test_too_few_windows(model: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="record at least 32"):
        simulate(counts(20, 0.0), model, [8], windows_per_rank=4, micro_batches=1)
