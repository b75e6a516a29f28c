"""A whole run: what it learns, writes and prints."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hnet.errors import ConfigError
from hnet.model.accounting import flops_per_byte
from hnet.training.allocator import keep_freed_memory
from hnet.training.config import RunConfig
from hnet.training.gpus import GPUS
from hnet.training.loop import train
from hnet.training.metrics import training_flops
from hnet.training.peak import measured_flops, peak_flops
from hnet.training.run import open_run

Make = Callable[..., RunConfig]
Read = Callable[[Path], list[dict[str, Any]]]


def finish(make_config: Make) -> RunConfig:
    config = make_config(
        "training.steps=40", "training.log_every=3", "training.validate_every=20", "logging.sample_prompt=the "
    )
    train(config)
    return config


def test_a_run_learns_logs_and_reports(make_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    finished = finish(make_config)
    output_dir = Path(finished.output_dir)
    rows = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, *range(3, 20, 3), 20, *range(21, 40, 3), 40]
    assert rows[-1]["bits_per_byte"] < rows[0]["bits_per_byte"] - 2
    assert [row["step"] for row in rows if "validation_bits_per_byte" in row] == [20, 40]
    contract = {
        "step", "bytes_seen", "loss", "bits_per_byte", "boundary", "learning_rate", "grad_norm", "bytes_per_second",
        "flops_per_byte", "mfu", "peak_memory_bytes",
    }  # fmt: skip
    for row in rows:
        assert row.keys() - {"validation_bits_per_byte"} == contract
        assert {"bytes_per_chunk", "ratio_loss"} == row["boundary"][0].keys()
        assert 0 < row["mfu"] < 10 and row["bytes_per_second"] > 0 and row["peak_memory_bytes"] > 1e6
    assert rows[-1]["bytes_seen"] <= 40 * 512
    assert {"config.yaml", "curves.png", "metrics.jsonl", "checkpoints"} <= {p.name for p in output_dir.iterdir()}
    shown = capsys.readouterr().out
    held_out = rows[-1]["validation_bits_per_byte"]
    for text in (
        "step 40/40", f"held-out bits per byte: {held_out:.4f}", "curves.png", "a sample", "in its chunks", "kB/s",
    ):  # fmt: skip
        assert text in shown


def test_a_finished_run_reports_again_and_a_longer_one_continues_it(
    make_config: Make, read_rows: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = finish(make_config)
    capsys.readouterr()
    before = (Path(finished.output_dir) / "metrics.jsonl").read_bytes()
    train(finished)
    assert (Path(finished.output_dir) / "metrics.jsonl").read_bytes() == before
    assert "held-out bits per byte" in capsys.readouterr().out
    train(make_config("training.steps=42", "training.log_every=1"))
    assert [row["step"] for row in read_rows(Path(finished.output_dir))][-3:] == [40, 41, 42]


def test_repetition_gives_the_same_bits(make_config: Make, read_rows: Read, tmp_path: Path) -> None:
    for name in ("one", "other"):
        train(make_config(f"output_dir={tmp_path / name}"))
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "other")


def test_a_flat_model_has_no_boundaries(make_config: Make, read_rows: Read) -> None:
    flat = 'model={"stages":[{"d_model":32,"main":"T1","attention":{"num_heads":2,"rotary_dim":8}}]}'
    train(make_config(flat, "training.steps=2"))
    assert [row["boundary"] for row in read_rows(Path(make_config().output_dir))] == [[], []]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.micro_batch_bytes=384", "must be a multiple of training.micro_batch_bytes 384"),
        ("training.peak_flops=H1000", "training.peak_flops 'H1000' is not known; allowed: 'measured'"),
    ],
)
def test_bad_settings(make_config: Make, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(make_config(override))


def test_flops_follow_the_chunks_that_were_made(make_config: Make) -> None:
    config = make_config()
    with open_run(config) as run:
        result = run.next_step()
    share = result.stages[0].chunks / result.units
    assert result.units_per_stage == (1.0, share)
    assert training_flops(config, result) == 3 * 512 * flops_per_byte(config.model, (1.0, share), result.context)
    recomputing = make_config("training.activation_checkpointing=true")
    assert training_flops(recomputing, result) == training_flops(config, result)


def test_peak_by_measurement_number_and_name() -> None:
    cpu = torch.device("cpu")
    assert 1e8 < measured_flops(cpu, torch.float32, repeats=1) < 1e14
    assert peak_flops(2.5e12, cpu, "fp32") == 2.5e12
    assert peak_flops("h100", cpu, "bf16") == GPUS["H100"].flops


def test_the_allocator_keeps_large_blocks_or_says_that_it_cannot() -> None:
    assert keep_freed_memory() in (True, False)
