"""Plain text files as documents: raw bytes through memory maps, never decoded.

Which bytes are one document:
- with `split_on`, a document ends after each occurrence of that text (which stays at its end);
- without, a file of up to 1 MiB is one document, and a longer one is cut after the first blank line that follows each
  64 KiB (after a line end, or before a character, where no blank line comes within another 64 KiB).
No byte is lost or changed, and no valid UTF-8 character is cut.
"""

import mmap
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet.data.document import Bytes
from hnet.errors import DataError

WHOLE_FILE_BYTES = 1 << 20
"""A file of at most this many bytes is one document."""
SEGMENT_BYTES = 64 << 10
"""Smallest document that is cut from a longer file; the largest has twice as many bytes."""
_OPEN_FILES = 64


def map_file(path: Path, expected_bytes: int | None = None) -> mmap.mmap | bytes:
    """A read-only memory map of a file (`b""` for an empty one, which cannot be mapped).

    Raises DataError if the file cannot be opened or does not have `expected_bytes`.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if expected_bytes is not None and size != expected_bytes:
                raise DataError(
                    f"{path} has {size} bytes instead of {expected_bytes}: it is incomplete or was changed while in "
                    "use; write it again and restart"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _character_border(data: mmap.mmap | bytes, position: int) -> int:
    """The nearest position at or up to 3 bytes before `position` that does not cut a UTF-8 character."""
    for back in range(4):
        if position - back <= 0 or data[position - back] & 0xC0 != 0x80:
            return max(position - back, 1)
    return position


def paragraph_ends(data: mmap.mmap | bytes, minimum: int, maximum: int) -> list[int]:
    """Ends of consecutive documents of `minimum` to `maximum` bytes that cover `data`; the last may be shorter.

    Cut after the first blank line, else line end, else before a character. Reads only the bytes near the cuts.
    """
    ends, start, size = [], 0, len(data)
    while size - start > maximum:
        for border in (b"\n\n", b"\n"):
            found = data.find(border, start + minimum - len(border), start + maximum)
            if found >= 0:
                end = found + len(border)
                while end < start + maximum and data[end] == 0x0A:
                    end += 1
                break
        else:
            end = _character_border(data, start + maximum)
        ends.append(end)
        start = end
    if size > start:
        ends.append(size)
    return ends


def separator_ends(data: mmap.mmap | bytes | Bytes, separator: bytes) -> list[int]:
    """Ends of the documents that `separator` closes (it belongs to the document before it); covers all of `data`."""
    buffer = data.data if isinstance(data, np.ndarray) else data
    ends = [match.end() for match in re.finditer(re.escape(separator), buffer)]
    if len(data) and (not ends or ends[-1] != len(data)):
        ends.append(len(data))
    return ends


def document_ends(data: mmap.mmap | bytes, split_on: bytes | None) -> list[int]:
    """Ends of the documents of one text file (the rule of this module)."""
    if split_on is not None:
        return separator_ends(data, split_on)
    if len(data) <= WHOLE_FILE_BYTES:
        return [len(data)]
    return paragraph_ends(data, SEGMENT_BYTES, 2 * SEGMENT_BYTES)


class TextFiles:
    """Documents of text files, in the given order. Bytes are read when used; few files are open at a time."""

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        file_sizes: Sequence[int],
        files: NDArray[np.int64],
        starts: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> None:
        """`files`, `starts`, `ends`, all (documents,): document i is bytes [starts[i], ends[i]) of paths[files[i]]."""
        self.name = name
        self._paths, self._file_sizes = list(paths), list(file_sizes)
        self._files, self._starts, self._ends = files, starts, ends
        self._open: OrderedDict[int, Bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def num_bytes(self, index: int) -> int:
        return int(self._ends[index] - self._starts[index])

    def total_bytes(self) -> int:
        return int((self._ends - self._starts).sum())

    def read(self, index: int) -> Bytes:
        return self._map(int(self._files[index]))[self._starts[index] : self._ends[index]]

    def _map(self, number: int) -> Bytes:
        data = self._open.get(number)
        if data is None:
            data = np.frombuffer(map_file(self._paths[number], self._file_sizes[number]), dtype=np.uint8)
            self._open[number] = data
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(number)
        return data


def open_text(name: str, paths: Sequence[Path], split_on: str | None = None) -> TextFiles:
    """Open text files as documents.

    Raises DataError if a file cannot be read. Empty files become empty documents.
    """
    separator = split_on.encode() if split_on is not None else None
    sizes: list[int] = []
    counts: list[int] = []
    ends: list[int] = []
    for path in paths:
        size = _size(path)
        sizes.append(size)
        if separator is None and size <= WHOLE_FILE_BYTES:
            file_ends = [size]
        else:
            file_ends = document_ends(map_file(path, size), separator) or [0]
        counts.append(len(file_ends))
        ends.extend(file_ends)
    all_ends = np.array(ends, dtype=np.int64)
    files = np.repeat(np.arange(len(sizes), dtype=np.int64), counts)
    starts = np.zeros_like(all_ends)
    starts[1:] = np.where(files[1:] == files[:-1], all_ends[:-1], 0)
    return TextFiles(name, paths, sizes, files, starts, all_ends)


def _size(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return file.seek(0, 2)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
