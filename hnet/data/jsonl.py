"""JSON lines (and JSON arrays) as raw bytes, with file and line in every complaint."""

import bz2
import gzip
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from hnet.data.document import text_bytes
from hnet.errors import DataError


def read_json_texts(paths: Sequence[str], column: str) -> Iterator[bytes]:
    """The text of each row of .jsonl, .ndjson or .json files (also .gz, .bz2, .xz).

    A file whose first character is `[` is one array, any other has an object on each line; blank lines are passed over.
    Bytes that are not UTF-8 are kept as they are. A null is an empty document.
    Raises DataError with file and line (or element) for what is no JSON object or has no text in `column`.
    """
    for row, place in _rows(paths):
        yield _text(row, column, place)


def read_json_values(paths: Sequence[str], column: str) -> Iterator[Any]:
    """What each row of the same files has in `column`. Raises DataError as `read_json_texts` does."""
    for row, place in _rows(paths):
        yield _value(row, column, place)


def _rows(paths: Sequence[str]) -> Iterator[tuple[Any, str]]:
    """Rows, and where each stands."""
    for path in paths:
        with _open(Path(path)) as file:
            first = file.read(1)
            while first.isspace():
                first = file.read(1)
            file.seek(0)
            if first == b"[":
                for number, row in enumerate(_load(file.read(), path), start=1):
                    yield row, f"{path}, element {number}"
            else:
                for number, line in enumerate(file, start=1):
                    if not line.isspace():
                        yield _load(line, f"{path}:{number}"), f"{path}:{number}"


def _open(path: Path) -> BinaryIO:
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    try:
        return cast(BinaryIO, openers.get(path.suffix.lower(), open)(path, "rb"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _load(data: bytes, place: str) -> Any:
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"))
    except json.JSONDecodeError as error:
        shown = data[:60].decode("utf-8", "replace").strip()
        raise DataError(
            f"{place}: not JSON ({error.msg} at column {error.colno}): {shown!r}; each line must be one JSON object"
        ) from error


def _value(row: Any, column: str, place: str) -> Any:
    if not isinstance(row, dict):
        raise DataError(f"{place}: {type(row).__name__} instead of a JSON object such as {{{json.dumps(column)}: ...}}")
    if column not in row:
        raise DataError(f"{place}: {missing_column(column, list(row))}")
    return row[column]


def _text(row: Any, column: str, place: str) -> bytes:
    value = _value(row, column, place)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: {column!r} holds {type(value).__name__} instead of text")
    try:
        return (value or "").encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that the JSON escapes (backslash-u): no byte of the file is behind it
        return text_bytes(value)


def missing_column(column: str, available: Sequence[str]) -> str:
    """The complaint about a column that is not there: nearest name, and all names."""
    from difflib import get_close_matches

    nearest = get_close_matches(column, available, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    return f"no column {column!r}{hint} Columns: {', '.join(available) or 'none'}; choose one with `column`"
