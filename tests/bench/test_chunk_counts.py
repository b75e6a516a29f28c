"""Chunk counts of a run's unseen text: which windows, what is counted, and the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import hnet
from hnet.bench.chunk_counts import record_chunks
from hnet.cli import main
from hnet.config import load_config, save_config
from hnet.data.stream import build_stream
from hnet.distributed.chunk_counts import ChunkCounts
from hnet.errors import ConfigError, DataError
from hnet.training.config import RunConfig
from hnet.training.loop import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two steps of two windows on a two-stage model."""
    stages = [{"d_model": 16, "encoder": "", "decoder": "m1"}] * 2 + [{"d_model": 16, "main": "t1"}]
    tree = {
        "output_dir": str(tmp_path_factory.mktemp("run")),
        "model": {"stages": [stage | {"ssm": {"d_state": 8, "head_dim": 16}} for stage in stages]},
        "data": {"train": "sample:train", "sequence_length": 128},
        "training": {"steps": 2, "global_batch_bytes": 256},
        "logging": {"progress": False},
    }
    config = load_config(RunConfig, tree)
    train(config)
    return config


def test_counts_are_those_of_the_windows_after_training(run: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "counts.npz"
    counts = record_chunks(run.output_dir, out, num_windows=3, console=Console(quiet=True))
    model = hnet.load(run.output_dir)
    stream = build_stream(run.data, seed=run.training.seed, windows_per_step=1, micro_batch_windows=1)
    with stream, torch.no_grad():
        batches = [next(stream) for _ in range(7)]
        for index, batch in enumerate(batches[4:]):
            stages = model(batch.input_ids, cu_seqlens=batch.cu_seqlens).stages
            assert counts.units[index].tolist() == [128, *(stage.num_chunks for stage in stages)]
            assert counts.features[index, :256].tolist() == torch.bincount(batch.input_ids, minlength=256).tolist()
            lengths = batch.cu_seqlens.diff().double()
            assert counts.context[index] == pytest.approx(float(lengths.square().sum() / lengths.sum()))
    read = ChunkCounts.load(out)
    assert np.array_equal(read.units, counts.units) and np.array_equal(read.features, counts.features)
    assert read.context == pytest.approx(counts.context)


def test_windows_of_another_length_begin_where_training_ended(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, long = tmp_path / "short.npz", tmp_path / "long.npz"
    for length, number, out in ((64, 4, short), (256, 1, long)):
        command = ["bench", "chunks", run.output_dir, "--sequence-length", str(length), "--windows", str(number)]
        assert main([*command, "--out", str(out)]) == 0
    assert "bytes per chunk" in capsys.readouterr().out
    assert np.array_equal(
        ChunkCounts.load(short).features[:, :256].sum(axis=0), ChunkCounts.load(long).features[0, :256]
    )


def test_what_cannot_be_recorded_or_read(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: make it first"):
        record_chunks(run.output_dir, tmp_path / "missing" / "counts.npz", num_windows=1)
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"no counts")
    with pytest.raises(DataError, match="write it with `hnet bench chunks`"):
        ChunkCounts.load(bad)
    flat = run.model_copy(update={"model": load_config(type(run.model), "byte_mamba_small")})
    (tmp_path / "checkpoint").mkdir()

    save_config(flat, tmp_path / "checkpoint" / "config.yaml")
    (tmp_path / "checkpoint" / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="makes no chunks"):
        record_chunks(tmp_path / "checkpoint", tmp_path / "counts.npz", num_windows=1)
