"""Checkpoints: complete or not there, checked when read, few, and refused with the remedy when they do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hnet
from hnet.errors import CheckpointError, ConfigError, DataError
from hnet.training.checkpoint_folder import CheckpointFolder, Sealed, seal
from hnet.training.config import RunConfig
from hnet.training.loop import train
from hnet.training.run import open_run

Make = Callable[..., RunConfig]
FILES = ["config.yaml", "model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"]


@pytest.fixture
def run_dir(make_config: Make) -> Path:
    """A run of three steps with a checkpoint after each."""
    config = make_config("training.steps=3", "training.checkpoint_every=1", "data.validation=[]")
    with open_run(config) as run:
        for _ in range(3):
            run.next_step()
            run.save()
    return Path(config.output_dir)


def resume(make_config: Make, *overrides: str) -> None:
    config = make_config("training.steps=5", "training.checkpoint_every=1", "data.validation=[]", *overrides)
    with open_run(config) as run:
        run.next_step()


def test_a_checkpoint_holds_these_files_and_loads_as_a_model(run_dir: Path) -> None:
    latest = run_dir / "checkpoints" / "latest"
    assert sorted(path.name for path in latest.iterdir()) == sorted([*FILES, "manifest.json"])
    assert latest.resolve().name == "step-00000003"
    model = hnet.load(run_dir)
    assert model(torch.arange(9)).logits.shape == (9, 256)


def test_only_the_newest_are_kept(make_config: Make) -> None:
    train(make_config("training.steps=5", "training.checkpoint_every=1", "training.keep_checkpoints=2"))
    folder = CheckpointFolder(Path(make_config().output_dir) / "checkpoints")
    assert [path.name for path in folder.complete()] == ["step-00000004", "step-00000005"]
    assert sorted(path.name for path in folder.path.iterdir()) == ["latest", "step-00000004", "step-00000005"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_damage_names_the_file_and_a_checkpoint_that_is_good(
    make_config: Make, run_dir: Path, name: str, damage: str
) -> None:
    path = run_dir / "checkpoints" / "step-00000003" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=rf"step-00000003/{name} is .*resumes from step-00000002"):
        resume(make_config)


def test_without_a_manifest_it_is_not_a_checkpoint(make_config: Make, run_dir: Path) -> None:
    (run_dir / "checkpoints" / "step-00000003" / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000003 is incomplete.*resumes from step-00000002"):
        resume(make_config)


def test_the_remedy_works(make_config: Make, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = run_dir / "checkpoints" / "step-00000003"
    for path in damaged.iterdir():
        path.unlink()
    damaged.rmdir()
    with caplog.at_level("INFO"):
        resume(make_config)
    assert "resuming from" in caplog.text and "step-00000002" in caplog.text


def test_nothing_left_to_resume_from(make_config: Make, run_dir: Path) -> None:
    for path in run_dir.glob("checkpoints/step-*/state.json"):
        path.write_text("{")
    with pytest.raises(CheckpointError, match="no other checkpoint of this run is complete"):
        resume(make_config)


def test_leftovers_of_a_crash_are_removed(make_config: Make, run_dir: Path) -> None:
    leftover = run_dir / "checkpoints" / ".writing-step-00000004"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    resume(make_config)
    assert not leftover.exists()


def test_another_model_is_refused_by_key(make_config: Make, run_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.stages\[1\]\.main was 'T1' and is now 'T2'.*another output_dir"):
        resume(make_config, "model.stages.1.main=T2")


def test_other_data_are_refused(make_config: Make, run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sequence_length was 128 and is now 256"):
        resume(make_config, "data.sequence_length=256")


def test_other_settings_may_change_and_are_reported(
    make_config: Make, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resume(make_config, "optimizer.learning_rate=0.001")
    assert "optimizer.learning_rate: 0.002 -> 0.001" in caplog.text
    assert "training.steps: 3 -> 5" in caplog.text


def test_a_checkpoint_of_a_newer_format_is_not_guessed_at(make_config: Make, run_dir: Path) -> None:
    manifest = run_dir / "checkpoints" / "step-00000003" / "manifest.json"
    content: dict[str, Any] = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(CheckpointError, match="format version 99; this program reads 1"):
        resume(make_config)


def test_a_failed_write_leaves_the_last_good_one(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)

    def write(step: int, text: str) -> dict[str, Sealed]:
        folder.open_draft(step)
        (folder.draft(step) / "data").write_text(text)
        return {"data": seal(folder.draft(step) / "data")}

    folder.publish(1, write(1, "one"), keep=1)
    unfinished = write(2, "tw")
    (folder.draft(2) / "data").write_text("t")
    with pytest.raises(OSError, match="has 1 bytes here, its writer saw 2"):
        folder.publish(2, unfinished, keep=1)
    latest = folder.latest()
    assert latest is not None
    assert (latest / "data").read_text() == "one"
    folder.publish(2, write(2, "two"), keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000002"]
