"""What a `SourceConfig` points to, opened."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hnet.data.config import SourceConfig
from hnet.data.document import Bytes, Document, Source
from hnet.data.sample_text import open_sample
from hnet.data.store import is_store, open_store
from hnet.data.streamed import StreamedSource
from hnet.data.text import TextFiles, open_text
from hnet.errors import DataError

logger = logging.getLogger(__name__)
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (*JSON_SUFFIXES, ".parquet", ".arrow")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".7z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_KINDS = (
    "a file (text, .jsonl, .json, .parquet, .arrow), a folder, a glob, a prepared store, "
    "sample:train or sample:validation, or the name of a dataset on the Hub (owner/name)"
)


class Concatenated:
    """The documents of several sources, one source after the other."""

    def __init__(self, name: str, sources: Sequence[Source]) -> None:
        self.name, self._sources = name, list(sources)
        self._starts = np.concatenate([[0], np.cumsum([len(source) for source in sources])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def num_bytes(self, index: int) -> int:
        source, local = self._find(index)
        return source.num_bytes(local)

    def read(self, index: int) -> Bytes:
        source, local = self._find(index)
        return source.read(local)

    def total_bytes(self) -> int:
        return sum(source.total_bytes() for source in self._sources)

    def label(self, index: int) -> str:
        """Of a document whose source has labels."""
        from hnet.data.labels import label_of

        source, local = self._find(index)
        return label_of(Document(source.num_bytes(local), source, local))

    def _find(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[number], index - int(self._starts[number])


def open_source(config: SourceConfig, *, split_later: bool = False) -> Source | StreamedSource:
    """Open a source; nothing but sizes and indexes is read.

    `split_later`: the caller cuts what is no text file at `config.split_on` itself.
    Raises DataError that names the path and what is allowed, if there is nothing to read or `split_on` cannot be used.
    """
    source = _open(config)
    if config.split_on and not split_later and (config.path.startswith("sample:") or not isinstance(source, TextFiles)):
        raise DataError(
            f"split_on does not apply to {config.path}: it cuts text files. Leave it out, or make a store with "
            "`hnet data prepare --split-on`, which cuts documents of every kind"
        )
    return source


def _open(config: SourceConfig) -> Source | StreamedSource:
    path = config.path
    if path.startswith("sample:"):
        return open_sample(path.removeprefix("sample:"))
    local = Path(path).expanduser()
    if local.is_dir() and is_store(local):
        return open_store(local)
    if local.is_dir() and (local / "dataset_info.json").is_file() and (local / "state.json").is_file():
        from hnet.data.table import open_saved_dataset

        return open_saved_dataset(path, local, config.column)
    files = _local_files(path, local)
    if files is not None:
        return _open_files(config, files)
    if not _HUB_NAME.fullmatch(path) or Path(path).suffix.lower() in (*TABLE_SUFFIXES, *_COMPRESSED, ".txt"):
        raise DataError(f"{path} does not exist; a source is {_KINDS}")
    from hnet.data.table import open_hub

    logger.info("%s is no local path; asking the Hub", path)
    return open_hub(config)


def describe_source(config: SourceConfig, source: Source | StreamedSource) -> dict[str, object]:
    """What a saved position depends on: the source's share and the size of its text, wherever it lies; or its name."""
    if isinstance(source, StreamedSource):
        names = {"path": config.path, "subset": config.subset, "split": config.split, "column": config.column}
        return {"weight": config.weight, "streaming": True, **names}
    return {"weight": config.weight, "documents": len(source), "bytes": source.total_bytes()}


def _local_files(path: str, local: Path) -> list[Path] | None:
    """Files that a path stands for, sorted; None if it names nothing local."""
    if local.is_file():
        return [local]
    if local.is_dir():
        files = [file for file in sorted(local.rglob("*")) if file.is_file() and not _hidden(file.relative_to(local))]
        if not files:
            raise DataError(f"folder {path} holds no files")
        return files
    if any(character in path for character in "*?["):
        import glob

        files = [Path(file) for file in sorted(glob.glob(str(local), recursive=True)) if Path(file).is_file()]
        if not files:
            raise DataError(f"no file matches {path}; quote the pattern as the program should see it")
        return files
    return None


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)


def _kind(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz") and suffixes[0] in JSON_SUFFIXES:
        return "json"
    suffix = suffixes[-1] if suffixes else ""
    if suffix in _COMPRESSED:
        raise DataError(f"{path} is compressed; unpack it first (.jsonl.gz, .bz2 and .xz are read as they are)")
    if suffix in JSON_SUFFIXES:
        return "json"
    return suffix[1:] if suffix in TABLE_SUFFIXES else "text"


def _open_files(config: SourceConfig, files: Sequence[Path]) -> Source | StreamedSource:
    kinds: dict[str, list[Path]] = {}
    for file in files:
        kinds.setdefault(_kind(file), []).append(file)
    if config.streaming:
        return _open_streamed(config, kinds)
    sources: list[Source] = []
    for kind in sorted(kinds):
        if kind == "text":
            sources.append(_open_text(config, kinds[kind]))
        else:
            from hnet.data.table import open_tables

            tables: Source = open_tables(config.path, kind, kinds[kind], config.column)
            if config.label_column is not None:
                from hnet.data.labels import Labelled, read_labels

                tables = Labelled(tables, read_labels(kind, kinds[kind], config.label_column))
            sources.append(tables)
    return sources[0] if len(sources) == 1 else Concatenated(config.path, sources)


def _open_streamed(config: SourceConfig, kinds: dict[str, list[Path]]) -> StreamedSource:
    if list(kinds) == ["text"] or len(kinds) > 1:
        raise DataError(
            f"{config.path} cannot be streamed: streaming is for a Hub dataset or for tables of one kind (jsonl, "
            "parquet, arrow); text files are memory-mapped anyway, so leave out streaming"
        )
    from hnet.data.table import open_streamed_tables

    ((kind, files),) = kinds.items()
    return open_streamed_tables(config.path, kind, files, config.column)


def _open_text(config: SourceConfig, files: Sequence[Path]) -> Source:
    source = open_text(config.path, files, config.split_on)
    empty = sum(1 for index in range(len(source)) if not source.num_bytes(index))
    if empty == len(source):
        raise DataError(f"{config.path} is empty: {_count(len(files), 'file')} with 0 bytes of text")
    if empty:
        logger.warning("%s: %s skipped", config.path, _count(empty, "empty file"))
    return source


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
