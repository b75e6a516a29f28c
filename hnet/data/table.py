"""Tables of the Hugging Face `datasets` library as documents: parquet, arrow, JSON lines, saved datasets, the Hub.

What is not streamed is an Arrow file that `datasets` keeps in its cache and memory-maps; sizes come from Arrow's
offsets, and a document is a view of the map.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hnet.data.config import SourceConfig
from hnet.data.document import Bytes, text_bytes
from hnet.data.jsonl import missing_column, read_json_texts
from hnet.errors import DataError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)
_JSON_READER_VERSION = 1
_DEFECTS = (AttributeError, NameError, AssertionError, MemoryError)
"""Errors of a program, not of its input: they keep their traceback."""


class ArrowTexts:
    """The texts of a column of an Arrow table, as views."""

    def __init__(self, name: str, column: "pyarrow.ChunkedArray") -> None:
        """`column`: strings or binary, of 32- or 64-bit offsets."""
        self.name = name
        self._chunks = [_chunk_views(chunk) for chunk in column.chunks if len(chunk)]
        lengths = [len(starts) for starts, _, _ in self._chunks]
        self._first = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        empty = sum(int((starts == ends).sum()) for starts, ends, _ in self._chunks)
        if empty and empty < len(self):
            logger.warning("%s: %d empty documents are skipped", name, empty)

    def __len__(self) -> int:
        return int(self._first[-1])

    def num_bytes(self, index: int) -> int:
        (starts, ends, _), row = self._find(index)
        return int(ends[row]) - int(starts[row])

    def read(self, index: int) -> Bytes:
        (starts, ends, data), row = self._find(index)
        return data[starts[row] : ends[row]]

    def total_bytes(self) -> int:
        return sum(int((ends - starts).sum(dtype=np.int64)) for starts, ends, _ in self._chunks)

    def _find(self, index: int) -> tuple[tuple[NDArray[Any], NDArray[Any], Bytes], int]:
        chunk = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._chunks[chunk], index - int(self._first[chunk])


def _chunk_views(chunk: "pyarrow.Array") -> tuple[NDArray[Any], NDArray[Any], Bytes]:
    """Starts, ends (rows,) and bytes of one chunk, without copying; a null is empty."""
    import pyarrow

    wide = pyarrow.types.is_large_string(chunk.type) or pyarrow.types.is_large_binary(chunk.type)
    _, offset_buffer, data_buffer = chunk.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int64 if wide else np.int32)
    starts = offsets[chunk.offset : chunk.offset + len(chunk)]
    ends = offsets[chunk.offset + 1 : chunk.offset + len(chunk) + 1]
    if chunk.null_count:
        ends = np.where(chunk.is_valid().to_numpy(zero_copy_only=False), ends, starts)
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer else np.zeros(0, dtype=np.uint8)
    return starts, ends, data


class StreamedTable:
    """Rows of an iterable dataset, one after another; one pass at a time."""

    def __init__(self, name: str, column: str, dataset: "IterableDataset") -> None:
        """Raises DataError if the column is not there."""
        self.name, self._column, self._dataset = name, column, dataset
        available = dataset.column_names
        if available is None:
            available = [key for row in itertools.islice(dataset, 1) for key in row]
        if available and column not in available:
            raise DataError(f"{name} has {missing_column(column, available)}")

    def open(self, position: Any) -> "TableReader":
        dataset = self._dataset.with_format(None)  # a view of its own: a loaded position stays with a dataset for good
        if position is not None:
            dataset.load_state_dict(position)
        return TableReader(self.name, self._column, dataset)


class TableReader:
    """One pass over a streamed table."""

    def __init__(self, name: str, column: str, dataset: "IterableDataset") -> None:
        self._name, self._column, self._dataset = name, column, dataset
        self._rows = _guarded(name, iter(dataset))

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        row = next(self._rows)
        if self._column not in row:
            raise DataError(f"{self._name} has {missing_column(self._column, list(row))}")
        value = row[self._column]
        if value is not None and not isinstance(value, (str, bytes)):
            raise DataError(f"{self._name}: column {self._column!r} holds {type(value).__name__} instead of text")
        return text_bytes(value)

    def position(self) -> Any:
        return self._dataset.state_dict()


def open_tables(name: str, kind: str, files: Sequence[Path], column: str) -> ArrowTexts:
    """Local .jsonl or .json (`json`), `parquet` or `arrow` files.

    Raises DataError for a damaged file or a missing column.
    """
    with _Complaints(name):
        return _texts(name, _load_local(kind, files, column), column if kind != "json" else "text")


def read_column(kind: str, files: Sequence[Path], column: str) -> list[Any]:
    """A column of local `parquet` or `arrow` files. Raises DataError for a damaged file or a missing column."""
    name = str(files[0])
    with _Complaints(name):
        dataset = _load_local(kind, files, column)
        if column not in dataset.column_names:
            raise DataError(f"{name} has {missing_column(column, dataset.column_names)}")
        return list(dataset[column])


def open_streamed_tables(name: str, kind: str, files: Sequence[Path], column: str) -> StreamedTable:
    """The same files, read row after row without a copy in the cache."""
    from datasets import IterableDataset, load_dataset

    with _Complaints(name):
        _refuse_empty(files)
        if kind == "json":
            rows = IterableDataset.from_generator(_json_rows, gen_kwargs=_json_arguments(files, column))
            return StreamedTable(name, "text", rows)
        paths = [str(file) for file in files]
        return StreamedTable(name, column, load_dataset(kind, data_files=paths, split="train", streaming=True))


def open_saved_dataset(name: str, folder: Path, column: str) -> ArrowTexts:
    """A folder that `Dataset.save_to_disk` wrote."""
    from datasets import load_from_disk

    with _Complaints(name):
        return _texts(name, load_from_disk(str(folder)), column)


def open_hub(config: SourceConfig) -> ArrowTexts | StreamedTable:
    """A dataset on the Hub.

    Raises DataError if it cannot be found or reached, or has no such split, subset or column.
    """
    from datasets import load_dataset

    with _Complaints(config.path, "is neither a local file or folder nor a dataset that can be loaded from the Hub"):
        dataset = load_dataset(config.path, config.subset, split=config.split, streaming=config.streaming)
        if config.streaming:
            return StreamedTable(config.path, config.column, dataset)
        return _texts(config.path, dataset, config.column)


def _load_local(kind: str, files: Sequence[Path], column: str) -> "Dataset":
    from datasets import Dataset, Features, Value, concatenate_datasets, load_dataset

    _refuse_empty(files)
    if kind == "arrow":
        return concatenate_datasets([_from_arrow(file) for file in files])
    if kind == "json":
        features = Features({"text": Value("large_binary")})
        return Dataset.from_generator(_json_rows, features=features, gen_kwargs=_json_arguments(files, column))
    return load_dataset(kind, data_files=[str(file) for file in files], split="train")


def _refuse_empty(files: Sequence[Path]) -> None:
    for file in files:
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty (0 bytes)")


def _from_arrow(file: Path) -> "Dataset":
    """An Arrow stream or file, memory-mapped."""
    import pyarrow
    from datasets import Dataset

    with file.open("rb") as opened:
        is_file_format = opened.read(6) == b"ARROW1"
    if is_file_format:
        return Dataset(pyarrow.ipc.open_file(pyarrow.memory_map(str(file))).read_all())
    return Dataset.from_file(str(file))


def _json_arguments(files: Sequence[Path], column: str) -> dict[str, Any]:
    """What `datasets` hashes into the name of its cached copy: a changed file is read anew."""
    stamps = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return {
        "paths": tuple(str(file.resolve()) for file in files),
        "column": column,
        "version": (_JSON_READER_VERSION, tuple(stamps)),
    }


def _json_rows(paths: Sequence[str], column: str, version: Any) -> Iterator[dict[str, bytes]]:
    """Rows for `datasets`; `version` only distinguishes cached copies."""
    for text in read_json_texts(paths, column):
        yield {"text": text}


def _texts(name: str, dataset: "Dataset", column: str) -> ArrowTexts:
    import pyarrow
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise DataError(f"{name} holds several splits ({', '.join(dataset)}); give the folder of one")
    if column not in dataset.column_names:
        raise DataError(f"{name} has {missing_column(column, dataset.column_names)}")
    if dataset._indices is not None:
        dataset = dataset.flatten_indices()
    values = dataset.data.column(column)
    types = pyarrow.types
    plain = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if not any(matches(values.type) for matches in plain):
        raise DataError(f"{name}: column {column!r} holds {values.type} instead of text (string or binary)")
    return ArrowTexts(name, values)


class _Complaints:
    """Turns what `datasets` raises into a DataError that begins with the source and what is wrong with it."""

    def __init__(self, name: str, problem: str = "cannot be read") -> None:
        self._name, self._problem = name, problem

    def __enter__(self) -> None: ...

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        if not isinstance(error, Exception) or isinstance(error, _DEFECTS):
            return
        from datasets.exceptions import DatasetGenerationError

        seen: BaseException | None = error
        while seen is not None:
            if isinstance(seen, DataError):
                if seen is error:
                    return
                raise seen from None
            seen = seen.__cause__ or seen.__context__
        speaker = (error.__cause__ or error) if isinstance(error, DatasetGenerationError) else error
        reason = str(speaker).strip().splitlines() or [type(speaker).__name__]
        raise DataError(f"{self._name} {self._problem}: {reason[0]}") from error


def _guarded(name: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while True:
        with _Complaints(name):
            try:
                row = next(rows)
            except StopIteration:
                return
        yield row
