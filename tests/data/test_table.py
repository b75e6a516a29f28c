"""JSON lines, parquet, arrow and datasets."""

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnet.data.config import SourceConfig
from hnet.data.jsonl import read_json_texts
from hnet.data.sources import open_source
from hnet.data.streamed import StreamedDocuments
from hnet.data.table import ArrowTexts, StreamedTable, open_hub
from hnet.errors import DataError

pytestmark = pytest.mark.usefixtures("datasets_cache")
TEXTS = [f"document {number} 诗 " * (number % 4) for number in range(25)]
BYTES = [text.encode() for text in TEXTS]


def write_table(path: Path, column: Any = None, name: str = "text") -> Path:
    table = pa.table({"id": range(len(TEXTS)), name: column if column is not None else pa.array(TEXTS)})
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    else:
        rows = ({"id": number, name: text} for number, text in enumerate(TEXTS))
        data = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path | str, **options: Any) -> list[bytes]:
    source = open_source(SourceConfig(path=str(path), **options))
    if isinstance(source, StreamedTable):
        return list(source.open(None))
    texts = [source.read(index).tobytes() for index in range(len(source))]
    assert [source.num_bytes(index) for index in range(len(source))] == list(map(len, texts))
    assert source.total_bytes() == sum(map(len, texts))
    return texts


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_every_kind(tmp_path: Path, name: str, streaming: bool) -> None:
    assert read(write_table(tmp_path / name, name="body"), column="body", streaming=streaming) == BYTES


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.large_binary()])
def test_every_text_type(tmp_path: Path, kind: pa.DataType) -> None:
    values = pa.array([b"\xff\xfe" if pa.types.is_binary(kind) else b"a", None, b"", b"xyz"], pa.binary()).cast(kind)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": values}), path)
    assert read(path) == [values[0].as_py() if isinstance(values[0].as_py(), bytes) else b"a", b"", b"", b"xyz"]


def test_slices_and_the_file_format(tmp_path: Path) -> None:
    table = pa.table({"text": TEXTS})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    assert read(tmp_path / "a.arrow") == BYTES
    sliced = ArrowTexts("sliced", pa.chunked_array([pa.array(TEXTS)[3:9], pa.array(TEXTS)[20:]]))
    assert [sliced.read(index).tobytes() for index in range(len(sliced))] == BYTES[3:9] + BYTES[20:]


def test_a_folder_of_tables_and_a_glob(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    (tmp_path / "c.txt").write_text("text file")
    (tmp_path / ".hidden").write_text("not this")
    assert read(tmp_path) == [b"a.jsonl", b"b.jsonl", b"text file"]
    assert read(f"{tmp_path}/*.jsonl") == [b"a.jsonl", b"b.jsonl"]


def test_a_json_array_and_json_escapes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(' [{"text": "one"}, {"text": "\\ud83d"}, {"text": null}]')
    assert read(tmp_path / "a.json") == [b"one", b"\xed\xa0\xbd", b""]


def test_invalid_utf8_in_json_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\xff\xfeb"}\n\n{"text": "c"}\n')
    assert read(tmp_path / "a.jsonl") == [b"a\xff\xfeb", b"c"]


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "old"}')
    assert read(path) == [b"old"]
    path.write_text('{"text": "newer"}')
    assert read(path) == [b"newer"]


def test_a_saved_dataset(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    dataset = Dataset.from_dict({"text": TEXTS})
    dataset.select([5, 3, 9]).save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == [BYTES[5], BYTES[3], BYTES[9]]
    DatasetDict({"train": dataset, "test": dataset}).save_to_disk(tmp_path / "dict")
    assert read(tmp_path / "dict" / "test") == BYTES


@pytest.mark.parametrize("streaming", [False, True])
def test_a_dataset_that_the_library_finds(tmp_path: Path, streaming: bool) -> None:
    """What the Hub's name does, with a folder in its place: splits, columns, streaming."""
    (tmp_path / "repo").mkdir()
    write_table(tmp_path / "repo" / "train.parquet")
    pq.write_table(pa.table({"text": ["held", "out"]}), tmp_path / "repo" / "test.parquet")
    source = open_hub(SourceConfig(path=str(tmp_path / "repo"), split="test", streaming=streaming))
    if isinstance(source, StreamedTable):
        assert list(source.open(None)) == [b"held", b"out"]
    else:
        assert [source.read(index).tobytes() for index in range(2)] == [b"held", b"out"]
    with pytest.raises(DataError, match=r"(Unknown|Bad) split"):
        open_hub(SourceConfig(path=str(tmp_path / "repo"), split="nowhere", streaming=streaming))
    with pytest.raises(DataError, match=r"no column 'txt'; did you mean 'text'\?"):
        open_hub(SourceConfig(path=str(tmp_path / "repo"), column="txt", streaming=streaming))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_streams_resume_anywhere(tmp_path: Path, assert_resumes: Any, name: str) -> None:
    source = open_source(SourceConfig(path=str(write_table(tmp_path / name)), streaming=True))
    assert isinstance(source, StreamedTable)
    assert_resumes(lambda: StreamedDocuments(source, key=1, buffer=4), 40)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_a_missing_column_names_the_nearest(tmp_path: Path, name: str, streaming: bool) -> None:
    path = write_table(tmp_path / name, name="content")
    with pytest.raises(DataError, match=r"no column 'contents'; did you mean 'content'\? Columns: id, content; choose"):
        read(path, column="contents", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": oops}', r"a\.jsonl:2: not JSON \(Expecting value at column 10\): '{\"text\": oops}'"),
        ('["text"]', r"a\.jsonl:2: list instead of a JSON object"),
        ('{"text": 5}', r"a\.jsonl:2: 'text' holds int instead of text"),
        ('{"txt": ""}', r"a\.jsonl:2: no column 'text'; did you mean 'txt'\?"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str, streaming: bool) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(DataError, match=message):
        read(path, streaming=streaming)


def test_a_bad_array(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "fine"}, 3]')
    with pytest.raises(DataError, match=r"a\.json, element 2: int instead of a JSON object"):
        list(read_json_texts([str(tmp_path / "a.json")], "text"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.arrow"])
def test_empty_and_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    with pytest.raises(DataError, match=r"is empty \(0 bytes\)"):
        read(path)
    path.write_bytes(b"garbage")
    with pytest.raises(DataError, match=f"{name}( cannot be read|:1: not JSON)"):
        read(path)


def test_a_truncated_table(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        read(path)


def test_a_column_of_numbers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"column 'id' holds int64 instead of text"):
        read(write_table(tmp_path / "a.parquet"), column="id")
    with pytest.raises(DataError, match=r"column 'id' holds int instead of text"):
        read(tmp_path / "a.parquet", column="id", streaming=True)


def test_empty_documents_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="hnet"):
        read(write_table(tmp_path / "a.parquet"))
    assert [record.message for record in caplog.records] == [f"{tmp_path}/a.parquet: 7 empty documents are skipped"]
