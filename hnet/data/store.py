"""The prepared byte store: shards of raw bytes and an index of document offsets.

    OUT/header.json         what the store holds, with the size and checksum of every file; written last
    OUT/index.u64           (documents + 1,) little-endian uint64: where document i and the one after it begin
    OUT/shard-00000.bytes   the documents' bytes end to end, counted through all shards; a document lies in one shard

Opening reads the header and the sizes of the files, whatever the number of documents; index and shards are
memory-mapped and documents are views of them. A store is made in a temporary folder and renamed, so one that exists is
complete.
"""

import json
import os
import shutil
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hnet.data.document import Bytes
from hnet.data.text import map_file
from hnet.errors import DataError

HEADER, INDEX = "header.json", "index.u64"
FORMAT, VERSION = "hnet-byte-store", 1
DEFAULT_SHARD_BYTES = 256 << 20
_OPEN_SHARDS = 64


def is_store(folder: Path) -> bool:
    """Whether a folder looks like a store (perhaps a damaged one)."""
    return (folder / HEADER).is_file() or (folder / INDEX).is_file()


class StoreWriter:
    """Writes a store. A context manager: the store appears at its end, and nothing is left after an error."""

    def __init__(self, output: Path, *, shard_bytes: int = DEFAULT_SHARD_BYTES, source: str = "") -> None:
        """Raises DataError if `output` exists already."""
        if output.exists():
            raise DataError(f"{output} exists already; remove it or choose another name")
        if shard_bytes < 1:
            raise DataError(f"shard_bytes is {shard_bytes}; it must be at least 1")
        self._output, self._shard_bytes, self._source = output, shard_bytes, source
        self._folder = output.parent / f".{output.name}.partial-{os.getpid()}"
        self._shards: list[dict[str, Any]] = []
        self._shard: BinaryIO | None = None
        self.num_documents = self.num_bytes = 0
        self._index_checksum = 0
        self._pending: list[int] = [0]

    def __enter__(self) -> "StoreWriter":
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(parents=True)
            self._index: BinaryIO = (self._folder / INDEX).open("wb")
        except OSError as error:
            raise DataError(f"cannot write {self._output}: {error.strerror or error}") from error
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            if error_type is None:
                self._finish()
            elif isinstance(error, OSError):
                raise DataError(f"cannot write {self._output}: {error.strerror or error}") from error
        finally:
            self._index.close()
            if self._shard is not None:
                self._shard.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def num_shards(self) -> int:
        """Shards begun so far."""
        return len(self._shards)

    def add(self, text: bytes | memoryview | Bytes) -> None:
        """Append one document of at least one byte."""
        data = text.data if isinstance(text, np.ndarray) else memoryview(text)
        size = len(data)
        if self._shard is None or (self._shards[-1]["bytes"] and self._shards[-1]["bytes"] + size > self._shard_bytes):
            self._next_shard()
        assert self._shard is not None
        shard = self._shards[-1]
        self._shard.write(data)
        shard["crc32"] = zlib.crc32(data, shard["crc32"])
        shard["bytes"] += size
        shard["documents"] += 1
        self.num_documents += 1
        self.num_bytes += size
        self._pending.append(self.num_bytes)
        if len(self._pending) >= 1 << 16:
            self._flush_index()

    def _next_shard(self) -> None:
        if self._shard is not None:
            _sync_and_close(self._shard)
        name = f"shard-{len(self._shards):05d}.bytes"
        self._shard = (self._folder / name).open("wb")
        self._shards.append({"file": name, "bytes": 0, "documents": 0, "crc32": 0})

    def _flush_index(self) -> None:
        data = np.array(self._pending, dtype="<u8").tobytes()
        self._index.write(data)
        self._index_checksum = zlib.crc32(data, self._index_checksum)
        self._pending.clear()

    def _finish(self) -> None:
        if not self.num_documents:
            raise DataError(f"{self._source or 'the source'} holds no text: no document of it has a byte")
        self._flush_index()
        _sync_and_close(self._index)
        if self._shard is not None:
            _sync_and_close(self._shard)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "source": self._source,
            "documents": self.num_documents,
            "bytes": self.num_bytes,
            "index": {"file": INDEX, "bytes": 8 * (self.num_documents + 1), "crc32": self._index_checksum},
            "shards": self._shards,
        }
        with (self._folder / HEADER).open("w", encoding="utf-8") as header:
            json.dump({**content, "header_crc32": _header_checksum(content)}, header, indent=1)
            header.flush()
            os.fsync(header.fileno())
        os.rename(self._folder, self._output)


class ByteStore:
    """A prepared store, open for reading: an indexable source whose documents are views of memory-mapped shards."""

    def __init__(self, folder: Path) -> None:
        """Takes constant time in the number of documents. Raises DataError if the store is incomplete or damaged."""
        self.name, self._folder = str(folder), folder
        self._header = _read_header(folder)
        self._shards: list[dict[str, Any]] = self._header["shards"]
        for entry in (self._header["index"], *self._shards):
            _check_size(folder / entry["file"], entry["bytes"])
        index = np.frombuffer(map_file(folder / INDEX), dtype="<u8")
        self._index: NDArray[np.uint64] = index
        if int(index[0]) != 0 or int(index[-1]) != self._header["bytes"]:
            raise DataError(
                f"{folder / INDEX} is damaged: it ends at byte {index[-1]}, not {self._header['bytes']}; {_REMEDY}"
            )
        self._shard_starts = np.concatenate([[0], np.cumsum([shard["bytes"] for shard in self._shards])])
        self._open: OrderedDict[int, Bytes] = OrderedDict()

    def __len__(self) -> int:
        return int(self._header["documents"])

    def num_bytes(self, index: int) -> int:
        return int(self._index[index + 1]) - int(self._index[index])

    def total_bytes(self) -> int:
        return int(self._header["bytes"])

    def read(self, index: int) -> Bytes:
        start, end = int(self._index[index]), int(self._index[index + 1])
        number = int(np.searchsorted(self._shard_starts, start, side="right")) - 1
        before = int(self._shard_starts[number])
        return self._map(number)[start - before : end - before]

    def verify(self) -> None:
        """Read everything and compare checksums. Raises DataError that names the damaged file."""
        for entry in (self._header["index"], *self._shards):
            path, checksum = self._folder / entry["file"], 0
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    checksum = zlib.crc32(block, checksum)
            if checksum != entry["crc32"]:
                raise DataError(
                    f"{path} is damaged: its checksum is {checksum:08x} instead of {entry['crc32']:08x}; {_REMEDY}"
                )

    def _map(self, number: int) -> Bytes:
        data = self._open.get(number)
        if data is None:
            shard = self._shards[number]
            data = np.frombuffer(map_file(self._folder / shard["file"], shard["bytes"]), dtype=np.uint8)
            self._open[number] = data
            if len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        return data


_REMEDY = "copy the store again or make it anew with `hnet data prepare`"


def open_store(folder: Path) -> ByteStore:
    """Open a prepared store. Raises DataError if it is incomplete or damaged."""
    return ByteStore(folder)


def _read_header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        raise DataError(f"{path} is missing: the store was not written to its end or not copied whole; {_REMEDY}")
    try:
        header = json.loads(path.read_bytes())
        checksum = header.pop("header_crc32")
        if header["format"] != FORMAT:
            raise DataError(f"{path} has format {header['format']!r}; a byte store has {FORMAT!r}")
        if header["version"] != VERSION:
            raise DataError(
                f"{path} has version {header['version']}, this program reads {VERSION}; make the store anew"
            )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}); {_REMEDY}") from error
    if checksum != _header_checksum(header):
        raise DataError(f"{path} does not match its own checksum: it was changed or damaged; {_REMEDY}")
    return header


def _header_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _check_size(path: Path, expected: int) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing; {_REMEDY}")
    size = path.stat().st_size
    if size != expected:
        state = "truncated" if size < expected else "too long"
        raise DataError(f"{path} is {state}: it has {size} bytes and the header says {expected}; {_REMEDY}")


def _sync_and_close(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
