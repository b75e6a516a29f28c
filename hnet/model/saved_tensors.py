"""`SavedTensors`: the weights or moments in a folder of safetensors files, read by ranges of elements.

Three layouts look the same from here:

    model.safetensors                       whole tensors in one file
    model.safetensors.index.json            whole tensors in several files, as Hugging Face lays them out
    index.json, model-RRRRR-of-NNNNN...     pieces of flattened tensors, one file a rank: a sharded checkpoint

Files are memory-mapped: opening one reads its header, and of the rest only what is asked for is read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hnet.errors import CheckpointError

INDEX = "index.json"
INDEX_VERSION = 1
Kind = Literal["model", "optimizer"]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Elements start .. stop-1 of a flattened tensor, which lie in `file` from element `offset` of its entry."""

    start: int
    stop: int
    file: str
    offset: int

    def within_entry(self, start: int, stop: int) -> slice:
        """Where the part of start .. stop-1 that this piece has lies in its entry of the file."""
        shift = self.offset - self.start
        return slice(max(start, self.start) + shift, min(stop, self.stop) + shift)


class SavedTensors:
    """Names, shapes and values of what one kind of file in a folder holds."""

    def __init__(self, folder: Path, kind: Kind = "model") -> None:
        """Reads the index and no values. Raises CheckpointError that names the file if something is missing or
        damaged, or if pieces leave out or repeat a part of a tensor."""
        self._folder = folder
        self._handles: dict[str, Any] = {}
        self.source = source_file(folder, kind)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        try:
            self._read_index(kind)
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(self.source, error) from error
        for name in self.shapes:
            self._check_coverage(name)

    def __contains__(self, name: str) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements start .. stop-1 of the flattened tensor: (stop - start,) on the CPU in the dtype that was saved.

        From one file it is a view of the mapped file, private to this process. Raises CheckpointError.
        """
        if name not in self.shapes:
            raise CheckpointError(f"{self.source} has no tensor {name!r}: it belongs to another model")
        parts = [
            self._values(piece.file, name)[piece.within_entry(start, stop)]
            for piece in self._pieces[name]
            if piece.start < stop and start < piece.stop
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)

    def dtype(self, name: str) -> torch.dtype:
        """That in which a tensor was saved."""
        return self._values(self._pieces[name][0].file, name).dtype

    def tensor(self, name: str) -> Tensor:
        """A whole tensor in its shape, on the CPU."""
        shape = self.shapes.get(name, ())
        return self.read(name, 0, math.prod(shape)).view(shape)

    def _read_index(self, kind: Kind) -> None:
        if self.source.name == INDEX:
            content = json.loads(self.source.read_text())
            if content["version"] != INDEX_VERSION:
                raise CheckpointError(
                    f"{self.source} has format version {content['version']}; this program reads {INDEX_VERSION}"
                )
            for file, entries in content["files"].items():
                if file.startswith(f"{kind}-"):
                    self._add_pieces(file, entries, content["shapes"])
        elif self.source.suffix == ".json":
            for file in dict.fromkeys(json.loads(self.source.read_text())["weight_map"].values()):
                self._add_whole(file)
        else:
            self._add_whole(self.source.name)

    def _add_pieces(self, file: str, entries: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
        for name, ranges in entries.items():
            # Moments are saved as MOMENT/NAME and have the shape of NAME.
            self.shapes[name] = tuple(shapes[name.rpartition("/")[2]])
            offset = 0
            for start, stop in ranges:
                self._pieces.setdefault(name, []).append(_Piece(start, stop, file, offset))
                offset += stop - start

    def _add_whole(self, file: str) -> None:
        handle = self._open(file)
        for name in handle.keys():  # noqa: SIM118 - the handle is no mapping
            shape = tuple(handle.get_slice(name).get_shape())
            self.shapes[name] = shape
            self._pieces[name] = [_Piece(0, math.prod(shape), file, 0)]

    def _check_coverage(self, name: str) -> None:
        self._pieces[name].sort(key=lambda piece: (piece.start, piece.stop))
        expected = 0
        for piece in self._pieces[name]:
            if piece.start != expected:
                raise CheckpointError(
                    f"{self.source} is damaged: elements {min(expected, piece.start)} to {max(expected, piece.start)} "
                    f"of {name} are missing or there twice; use another checkpoint of the run"
                )
            expected = piece.stop
        if expected != math.prod(self.shapes[name]):
            raise CheckpointError(
                f"{self.source} is damaged: {name} has {expected} elements of {math.prod(self.shapes[name])}; "
                "use another checkpoint of the run"
            )

    def _values(self, file: str, name: str) -> Tensor:
        try:
            tensor: Tensor = self._open(file).get_tensor(name)
        except SafetensorError as error:
            raise self._unreadable(self._folder / file, error) from error
        return tensor.flatten()

    def _open(self, file: str) -> Any:
        if file not in self._handles:
            try:
                self._handles[file] = safe_open(self._folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise self._unreadable(self._folder / file, error) from error
        return self._handles[file]

    def _unreadable(self, file: Path, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{file} cannot be read ({error}); the file is missing or damaged: use another checkpoint of the run"
        )


def whole_file(kind: Kind) -> str:
    """Name of the file that alone holds whole tensors."""
    return f"{kind}.safetensors"


def part_file(kind: Kind, rank: int, num_ranks: int) -> str:
    """Name of the file with what one of several ranks has written."""
    return f"{kind}-{rank:05d}-of-{num_ranks:05d}.safetensors"


def source_file(folder: Path, kind: Kind = "model") -> Path:
    """The file that says what a folder holds of a kind; the one of a single file if there is none."""
    candidates = (folder / INDEX, folder / f"{whole_file(kind)}.index.json")
    return next((path for path in candidates if path.is_file()), folder / whole_file(kind))
