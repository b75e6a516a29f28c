"""`hnet data prepare`: any source into a prepared byte store."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hnet.data.config import SourceConfig
from hnet.data.document import Bytes, Source
from hnet.data.sources import open_source
from hnet.data.store import DEFAULT_SHARD_BYTES, StoreWriter
from hnet.data.streamed import StreamedSource
from hnet.data.text import separator_ends
from hnet.errors import DataError


@dataclass(frozen=True, slots=True)
class PreparedSummary:
    """What was written."""

    output: str
    num_documents: int
    num_bytes: int
    num_shards: int
    num_empty: int
    """Empty documents that were left out."""


def prepare(
    source: str | SourceConfig,
    output: str,
    *,
    column: str = "text",
    shard_bytes: int = DEFAULT_SHARD_BYTES,
    split_on: str | None = None,
    progress: bool = True,
) -> PreparedSummary:
    """Write the documents of `source`, in their order, to a new store in folder `output`.

    Args:
        source: what `data.train` takes; a SourceConfig brings its own column and `split_on`.
        shard_bytes: bytes of a shard; only a document that is longer exceeds it.
        split_on: cut every document after each occurrence of this text; `\\n`, `\\t`, `\\f` and so on may be typed.
        progress: show a progress bar.

    Raises DataError for a source that cannot be read or an output that exists; nothing is left of a failed attempt.
    """
    if isinstance(source, str):
        source = SourceConfig(path=source, column=column, split_on=unescape(split_on) if split_on else None)
    opened = open_source(source, split_later=True)
    separator = source.split_on.encode() if source.split_on else None
    num_empty = 0
    total = None if isinstance(opened, StreamedSource) else opened.total_bytes()
    writer = StoreWriter(Path(output), shard_bytes=shard_bytes, source=source.path)
    with writer, _Bar(total, progress) as bar:
        for document in _documents(opened):
            for part in _parts(document, separator):
                if len(part):
                    writer.add(part)
                else:
                    num_empty += 1
            bar.advance(len(document))
    return PreparedSummary(output, writer.num_documents, writer.num_bytes, writer.num_shards, num_empty)


def unescape(text: str) -> str:
    """A separator as typed on a command line: `\\n` is a line end. Raises DataError for a broken escape."""
    if "\\" not in text:
        return text
    try:
        escaped = re.sub(r"\\(x[0-9a-fA-F]{2}|.)", lambda found: codecs.decode(found.group(), "unicode_escape"), text)
    except UnicodeDecodeError as error:
        raise DataError(f"split_on {text!r} is not a valid text: {error.reason}") from error
    return escaped


def _documents(source: Source | StreamedSource) -> Iterator[Bytes | bytes]:
    if isinstance(source, StreamedSource):
        yield from source.open(None)
    else:
        for index in range(len(source)):
            yield source.read(index)


def _parts(document: Bytes | bytes, separator: bytes | None) -> Iterator[Bytes | bytes]:
    if separator is None or not len(document):
        yield document
        return
    start = 0
    for end in separator_ends(document, separator):
        yield document[start:end]
        start = end


class _Bar:
    """A progress bar in bytes; counts without an end for a streamed source."""

    def __init__(self, total: int | None, shown: bool) -> None:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = TextColumn("prepare"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        self._progress = Progress(*columns, disable=not shown)
        self._task = self._progress.add_task("prepare", total=total)

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, num_bytes: int) -> None:
        self._progress.advance(self._task, num_bytes)
