"""Killed at ten random moments, one of them while a checkpoint is written, a run ends as if nothing had happened."""

import random
import signal
import time
from collections.abc import Callable
from itertools import cycle
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hnet.testing.processes import process_context
from hnet.training import checkpoint_writer
from hnet.training.checkpoint_folder import CheckpointFolder
from hnet.training.config import RunConfig
from hnet.training.loop import train

Make = Callable[..., RunConfig]
Read = Callable[[Path], list[dict[str, Any]]]

STEPS = 40
SETTINGS = (
    f"training.steps={STEPS}", "training.checkpoint_every=4", "training.validate_every=10",
    "training.keep_checkpoints=2", "training.micro_batch_bytes=256",
)  # fmt: skip


def train_with_slow_writes(config: RunConfig) -> None:
    """`train`, but every file of a checkpoint takes a moment."""
    fast = checkpoint_writer.save_file

    def slow(*args: Any, **kwargs: Any) -> None:
        fast(*args, **kwargs)
        time.sleep(0.2)

    checkpoint_writer.save_file = slow
    train(config)


def start(target: Callable[[RunConfig], None], config: RunConfig) -> ForkServerProcess:
    process = process_context().Process(target=target, args=(config,))
    process.start()
    return process


def wait_until(condition: Callable[[], bool], process: ForkServerProcess) -> None:
    deadline = time.monotonic() + 60
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def finish(config: RunConfig) -> None:
    process = start(train, config)
    process.join(120)
    assert process.exitcode == 0


def logged_steps(output_dir: Path) -> int:
    path = output_dir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_writing(output_dir: Path) -> bool:
    return any((output_dir / "checkpoints").glob(".writing-*/*"))


def check_latest(output_dir: Path) -> None:
    """Whatever happened, `latest` is whole."""
    folder = CheckpointFolder(output_dir / "checkpoints")
    if (latest := folder.latest()) is not None:
        folder.verify(latest)


def same_end(one: Path, other: Path, read_rows: Read) -> None:
    assert read_rows(one) == read_rows(other)
    latest = [path / "checkpoints" / "latest" for path in (one, other)]
    assert latest[0].resolve().name == latest[1].resolve().name
    for name in ("model.safetensors", "optimizer.safetensors", "random.safetensors"):
        left, right = (load_file(path / name) for path in latest)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_killed_at_ten_random_moments(make_config: Make, read_rows: Read, tmp_path: Path) -> None:
    undisturbed = make_config(*SETTINGS, f"output_dir={tmp_path / 'undisturbed'}")
    in_turn = cycle(
        make_config(*SETTINGS, f"output_dir={tmp_path / 'killed'}", f"training.async_checkpoints={background}")
        for background in ("false", "true")
    )
    killed = next(in_turn)
    reference = start(train, undisturbed)
    output_dir = Path(killed.output_dir)
    moments = random.Random(20261123)
    kill_after = sorted(moments.randrange(0, STEPS - 2) for _ in range(10))
    during_write = moments.randrange(3, 10)
    for number, step in enumerate(kill_after):
        killed = next(in_turn)
        if number == during_write:
            process = start(train_with_slow_writes, killed)
            wait_until(lambda: is_writing(output_dir), process)
            assert is_writing(output_dir)
        else:
            process = start(train, killed)
            wait_until(lambda step=step: logged_steps(output_dir) > step, process)  # type: ignore[misc]
            time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        check_latest(output_dir)
    finish(killed)
    reference.join(120)
    same_end(Path(undisturbed.output_dir), output_dir, read_rows)
    assert [row["step"] for row in read_rows(output_dir)] == list(range(1, STEPS + 1))
    assert not list((output_dir / "checkpoints").glob(".*"))


def test_sigterm_saves_and_the_same_command_continues(make_config: Make, read_rows: Read, tmp_path: Path) -> None:
    undisturbed = make_config("training.steps=30", f"output_dir={tmp_path / 'undisturbed'}")
    background = ("training.async_checkpoints=true", "training.checkpoint_every=2")
    stopped = make_config("training.steps=30", f"output_dir={tmp_path / 'stopped'}", *background)
    output_dir = Path(stopped.output_dir)
    process = start(train, stopped)
    wait_until(lambda: logged_steps(output_dir) >= 3, process)
    process.terminate()
    process.join(60)
    assert process.exitcode == 0
    last_step = read_rows(output_dir)[-1]["step"]
    assert 3 <= last_step < 30
    assert (output_dir / "checkpoints" / "latest").resolve().name == f"step-{last_step:08d}"
    assert (output_dir / "curves.png").exists()
    finish(stopped)
    finish(undisturbed)
    same_end(Path(undisturbed.output_dir), output_dir, read_rows)
