"""How a run's `checkpoints/` folder changes, so that a crash at any moment leaves the last good checkpoint usable.

A checkpoint is written under a temporary name, its `manifest.json` last, and renamed; then `latest`, a relative link,
is replaced atomically. Names that begin with a dot are unfinished work, removed when the run starts again. Any process
may write files into a draft and `seal` them; one process opens the draft and publishes it.
"""

import errno
import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

from hnet.errors import CheckpointError

MANIFEST = "manifest.json"
LATEST = "latest"
FORMAT_VERSION = 1

_NAME = re.compile(r"step-(\d{8,})")


class Sealed(TypedDict):
    """What the manifest says of a file."""

    bytes: int
    crc32: int


class CheckpointFolder:
    """`output_dir/checkpoints`. Only rank 0 changes it; all ranks may fill a draft."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def draft(self, step: int) -> Path:
        """Where the checkpoint of `step` is written before it is published."""
        return self.path / f".writing-{_name(step)}"

    def open_draft(self, step: int) -> None:
        """Make an empty draft for `step`."""
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.draft(step)
        _remove(draft)
        draft.mkdir()

    def drop_draft(self, step: int) -> None:
        """Give up a draft, and the space it takes."""
        _remove(self.draft(step))

    def publish(self, step: int, files: Mapping[str, Sealed], *, keep: int) -> Path:
        """Make the draft of `step`, which holds `files`, the latest checkpoint, and keep the newest `keep`."""
        draft, final = self.draft(step), self.path / _name(step)
        for name, sealed in files.items():
            _check_size(draft / name, sealed)
        manifest = draft / MANIFEST
        manifest.write_text(json.dumps({"version": FORMAT_VERSION, "step": step, "files": files}, indent=1))
        _sync(manifest)
        _sync(draft)
        if final.exists():
            self._discard(final)
        draft.rename(final)
        _sync(self.path)
        self._point_latest_to(final)
        self._retain(keep)
        return final

    def latest(self) -> Path | None:
        """The checkpoint to resume from: `latest`, or the newest complete one if that is gone. None: there is none."""
        link = self.path / LATEST
        chosen = self.path / os.readlink(link) if link.is_symlink() else None
        if chosen is not None and chosen.exists():
            return chosen
        complete = self.complete()
        return complete[-1] if complete else None

    def verify(self, checkpoint: Path, *, part: int = 0, num_parts: int = 1) -> None:
        """Raises CheckpointError, naming file and remedy, unless every file is as it was written.

        Checksums are taken of one part of the files, so that as many processes can share the reading.
        """
        damage = _damage(checkpoint, part, num_parts)
        if damage is None:
            return
        others = [path for path in reversed(self.complete()) if path != checkpoint and not _damage(path, 0, 1)]
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


def seal(path: Path) -> Sealed:
    """Put a written file onto the disk, and say how it can be recognised."""
    _sync(path)
    return {"bytes": path.stat().st_size, "crc32": _crc32(path)}


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _check_size(path: Path, sealed: Sealed) -> None:
    """A file that another host has sealed and this one does not see lies on another disk."""
    size = path.stat().st_size
    if size != sealed["bytes"]:
        raise OSError(errno.EIO, f"has {size} bytes here, its writer saw {sealed['bytes']}", str(path))


def _damage(checkpoint: Path, part: int, num_parts: int) -> str | None:
    """What is wrong with a checkpoint, naming the file; None if nothing is. Reads every `num_parts`-th file."""
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
    for number, (name, entry) in enumerate(files.items()):
        path = checkpoint / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{path} is damaged: it has {path.stat().st_size} bytes, {entry['bytes']} were written"
        if number % num_parts == part and _crc32(path) != entry["crc32"]:
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
