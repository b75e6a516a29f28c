"""TensorBoard, W&B offline, the progress bar, and the file that a resumed run continues."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console as RichConsole
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hnet.training.callbacks.base import numbers
from hnet.training.callbacks.console import Console
from hnet.training.callbacks.metrics_file import truncate
from hnet.training.config import RunConfig
from hnet.training.loop import train
from hnet.training.run import open_run

Make = Callable[..., RunConfig]

ROW = {
    "step": 7, "bytes_seen": 100, "loss": 2.5, "bits_per_byte": 3.0, "grad_norm": None, "bytes_per_second": 12_300.0,
    "boundary": [{"bytes_per_chunk": 4.5, "ratio_loss": 1.0}, {"bytes_per_chunk": 9.0, "ratio_loss": None}],
}  # fmt: skip


def test_trackers_get_numbers_only() -> None:
    assert numbers(ROW) == {
        "bytes_seen": 100, "loss": 2.5, "bits_per_byte": 3.0, "bytes_per_second": 12_300.0,
        "boundary/0/bytes_per_chunk": 4.5, "boundary/0/ratio_loss": 1.0, "boundary/1/bytes_per_chunk": 9.0,
    }  # fmt: skip


def test_tensorboard_and_wandb_offline(make_config: Make) -> None:
    config = make_config("training.steps=3", "logging.tensorboard=true", "logging.wandb=offline")
    train(config)
    output_dir = Path(config.output_dir)
    events = EventAccumulator(str(output_dir / "tensorboard"))
    events.Reload()
    losses = [json.loads(line)["loss"] for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("boundary/0/bytes_per_chunk")] == [1, 2, 3]
    assert list(output_dir.glob("wandb/offline-run-*/run-*.wandb"))
    assert (output_dir / "wandb-run-id.txt").read_text().strip()


def test_a_terminal_shows_a_bar(make_config: Make) -> None:
    terminal = RichConsole(file=io.StringIO(), force_terminal=True, width=120)
    with open_run(make_config()) as run:
        bar = Console(use_bar=True, console=terminal)
        bar.on_start(run)
        bar.on_step(run, run.next_step())
        bar.on_row(run, {**ROW, "validation_bits_per_byte": 3.25})
        bar.on_end(run)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "1/6" in shown
    assert "3.000 bits/byte  4.5 | 9.0 bytes/chunk  12.3 kB/s" in shown
    assert "step 7: held-out bits per byte 3.2500" in shown


def test_metrics_past_the_checkpoint_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 5}\n{"step": 6}\n{"st')
    truncate(path, 5)
    assert path.read_text() == '{"step": 1}\n{"step": 5}\n'
    truncate(path, 0)
    assert path.read_text() == ""
    truncate(tmp_path / "none.jsonl", 3)
