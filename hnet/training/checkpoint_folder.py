"""How a run's `checkpoints/` folder changes, so that a crash at any moment leaves the last good checkpoint usable.

A checkpoint is written under a temporary name, its `manifest.json` last, and renamed; then `latest`, a relative link,
is replaced atomically. Names that begin with a dot are unfinished work, removed when the run starts again.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

from hnet.errors import CheckpointError

MANIFEST = "manifest.json"
LATEST = "latest"
FORMAT_VERSION = 1

_NAME = re.compile(r"step-(\d{8,})")


class CheckpointFolder:
    """`output_dir/checkpoints`. Only rank 0 changes it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def publish(self, step: int, write: Callable[[Path], None], *, keep: int) -> Path:
        """Have `write` fill a new folder for `step`, make it the latest, and keep the newest `keep`."""
        self.path.mkdir(parents=True, exist_ok=True)
        final = self.path / f"step-{step:08d}"
        draft = self.path / f".writing-{final.name}"
        _remove(draft)
        draft.mkdir()
        write(draft)
        _write_manifest(draft, step)
        if final.exists():
            self._discard(final)
        draft.rename(final)
        _sync(self.path)
        self._point_latest_to(final)
        self._retain(keep)
        return final

    def latest(self) -> Path | None:
        """The checkpoint to resume from: `latest`, or the newest complete one if that is gone. None: there is none.

        Raises CheckpointError if `latest` is damaged.
        """
        link = self.path / LATEST
        chosen = self.path / os.readlink(link) if link.is_symlink() else None
        if chosen is None or not chosen.exists():
            complete = [path for path in self.complete() if not _damage(path)]
            return complete[-1] if complete else None
        self.verify(chosen)
        return chosen

    def verify(self, checkpoint: Path) -> None:
        """Raises CheckpointError, naming file and remedy, unless every file is as it was written."""
        damage = _damage(checkpoint)
        if damage is None:
            return
        others = [path for path in reversed(self.complete()) if path != checkpoint and not _damage(path)]
        if others:
            remedy = f"delete {checkpoint} and run the same command: it resumes from {others[0].name}"
        else:
            remedy = "no other checkpoint of this run is complete: delete the output_dir to start again"
        raise CheckpointError(f"{damage}; {remedy}")

    def complete(self) -> list[Path]:
        """Checkpoints whose writing was finished, oldest first."""
        if not self.path.is_dir():
            return []
        found = [path for path in self.path.iterdir() if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    def clean_up(self) -> None:
        """Remove what a crash left behind."""
        if self.path.is_dir():
            for leftover in self.path.glob(".*"):
                _remove(leftover)

    def _point_latest_to(self, checkpoint: Path) -> None:
        draft = self.path / f".{LATEST}"
        _remove(draft)
        draft.symlink_to(checkpoint.name)
        draft.replace(self.path / LATEST)
        _sync(self.path)

    def _retain(self, keep: int) -> None:
        latest = (self.path / LATEST).resolve()
        others = [path for path in self.complete() if path.resolve() != latest]
        for old in others[: max(0, len(others) - (keep - 1))]:
            self._discard(old)

    def _discard(self, checkpoint: Path) -> None:
        doomed = self.path / f".deleting-{checkpoint.name}"
        _remove(doomed)
        checkpoint.rename(doomed)
        _remove(doomed)


def step_of(checkpoint: Path) -> int:
    """`step-00000100` -> 100."""
    return int(checkpoint.name.removeprefix("step-"))


def _write_manifest(folder: Path, step: int) -> None:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    entries = {path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in files}
    for path in files:
        _sync(path)
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"version": FORMAT_VERSION, "step": step, "files": entries}, indent=1))
    _sync(manifest)
    _sync(folder)


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, naming the file; None if nothing is."""
    manifest = checkpoint / MANIFEST
    try:
        content = json.loads(manifest.read_text())
        version, files = content["version"], content["files"]
    except FileNotFoundError:
        return f"checkpoint {checkpoint} is incomplete: it has no {MANIFEST}"
    except (ValueError, KeyError, TypeError):
        return f"{manifest} is damaged: it is not the JSON that was written"
    if version != FORMAT_VERSION:
        return f"{manifest} has format version {version}; this program reads {FORMAT_VERSION}"
    for name, entry in files.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{path} is damaged: it has {path.stat().st_size} bytes, {entry['bytes']} were written"
        if _crc32(path) != entry["crc32"]:
            return f"{path} is damaged: its checksum differs from what was written"
    return None


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(path: Path) -> None:
    """Ask the system to put a file, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
