"""Two ranks write a checkpoint and one fails or is killed: every rank hears why, and the last good one stays usable."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

import hnet
from hnet.distributed.collectives import barrier
from hnet.errors import CheckpointError
from hnet.testing.ranks import run_distributed
from hnet.training import checkpoint_writer
from hnet.training.checkpoint_folder import CheckpointFolder
from hnet.training.checkpoint_writer import CheckpointWriter
from hnet.training.config import RunConfig
from hnet.training.run import Run, open_run

Make = Callable[..., RunConfig]
write_file = checkpoint_writer.save_file


def disk_is_full(tensors: dict[str, torch.Tensor], path: Path, **settings: Any) -> None:
    """As `safetensors` says it."""
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def cut_off(tensors: dict[str, torch.Tensor], path: Path, **settings: Any) -> None:
    """Half a file, and the end of the process."""
    write_file(tensors, path, **settings)
    os.truncate(path, path.stat().st_size // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def failing_save(run: Run, writer: CheckpointWriter, step: int) -> dict[str, Any]:
    """What every rank gets to hear, and what is in the folder then."""
    run.state.step = step
    message = "no error"
    try:
        writer.save(run.state, run.stream)
        for _ in range(3):
            run.train_step([next(run.stream)], step)
            writer.poll()
        writer.wait()
    except CheckpointError as error:
        message = f"on every rank: {error.on_every_rank}: {error}"
    latest = run.checkpoints.latest()
    assert latest is not None
    run.checkpoints.verify(latest)
    left = sorted(path.name for path in run.checkpoints.path.iterdir())
    barrier()  # the other rank shall see the same folder, not that of the next save
    return {"message": message, "left": left}


def save_badly(rank: int, config: RunConfig, background: RunConfig) -> dict[str, Any]:
    with open_run(config) as run:
        run.next_step()
        run.save()
        if rank == 1:
            checkpoint_writer.save_file = disk_is_full
        full = failing_save(run, run.writer, 2)
        full_in_background = failing_save(run, CheckpointWriter(run.checkpoints, background, run.engine), 3)
        checkpoint_writer.save_file = write_file
        if rank == 0:
            run.checkpoints.open_draft = not_allowed  # type: ignore[method-assign]
        not_writable = failing_save(run, run.writer, 4)
        if rank == 0:
            del run.checkpoints.open_draft
        good = failing_save(run, CheckpointWriter(run.checkpoints, background, run.engine), 5)
    return {"full": full, "background": full_in_background, "not writable": not_writable, "good": good}


def not_allowed(step: int) -> None:
    raise PermissionError(13, "Permission denied", "runs/one/checkpoints")


def be_killed(rank: int, config: RunConfig) -> None:
    with open_run(config) as run:
        run.next_step()
        run.save()
        run.next_step()
        if rank == 1:
            checkpoint_writer.save_file = cut_off
        run.save()


def refuse(rank: int, config: RunConfig) -> str:
    try:
        with open_run(config):
            return "no error"
    except CheckpointError as error:
        return str(error)


def test_an_error_on_one_rank_is_heard_by_all_and_loses_nothing(make_config: Make) -> None:
    config = make_config("training.ratio_loss_scope=global_batch")
    background = make_config("training.ratio_loss_scope=global_batch", "training.async_checkpoints=true")
    results = run_distributed(save_badly, 2, config, background)
    assert results[0] == results[1]
    folder = Path(config.output_dir) / "checkpoints"
    for case, step in (("full", 2), ("background", 3)):
        message = results[0][case]["message"]
        assert f"on every rank: True: the checkpoint of step {step} could not be saved: rank 1 on " in message
        assert f".writing-step-0000000{step}/model-00001-of-00002.safetensors: No space left on device" in message
        assert "free disk space or lower training.keep_checkpoints, and run the same command" in message
        assert message.endswith(f"it resumes from {folder}/step-00000001")
        assert results[0][case]["left"] == ["latest", "step-00000001"]
    assert "rank 0 on " in results[0]["not writable"]["message"]
    assert "runs/one/checkpoints: Permission denied; make output_dir writable" in results[0]["not writable"]["message"]
    assert results[0]["not writable"]["left"] == ["latest", "step-00000001"]
    assert results[0]["good"] == {"message": "no error", "left": ["latest", "step-00000001", "step-00000005"]}


def test_killed_while_writing_its_part(make_config: Make) -> None:
    config = make_config()
    with pytest.raises(RuntimeError, match="rank 1 failed:\nit died without a word"):
        run_distributed(be_killed, 2, config)
    folder = CheckpointFolder(Path(config.output_dir) / "checkpoints")
    assert folder.draft(2).is_dir()
    latest = folder.latest()
    assert latest is not None and latest.name == "step-00000001"
    folder.verify(latest)
    assert hnet.load(config.output_dir).config == config.model
    with open_run(config) as run:
        assert run.state.step == 1
        assert not folder.draft(2).exists()
        run.next_step()


def test_damage_that_one_rank_finds_is_heard_by_all(make_config: Make) -> None:
    config = make_config()
    with open_run(config) as run:
        run.next_step()
        run.save()
    path = Path(config.output_dir) / "checkpoints" / "step-00000001" / "optimizer.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    first, second = run_distributed(refuse, 2, config)
    assert f"{path} is damaged: its checksum differs" in first
    assert first == second
