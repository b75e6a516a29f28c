"""What a path stands for, and what is said of one that stands for nothing."""

import logging
from pathlib import Path

import pytest

from hnet.data.config import SourceConfig
from hnet.data.sample_text import FOLDER
from hnet.data.sources import open_source
from hnet.data.streamed import StreamedSource
from hnet.data.text import TextFiles
from hnet.errors import DataError


def open_path(path: object, **options: object) -> TextFiles:
    source = open_source(SourceConfig(path=str(path), **options))  # type: ignore[arg-type]
    assert isinstance(source, TextFiles)
    return source


def read(source: TextFiles) -> list[bytes]:
    return [source.read(index).tobytes() for index in range(len(source))]


def test_file_folder_and_glob(text_folder: Path) -> None:
    files = sorted(text_folder.iterdir())
    (text_folder / ".git").mkdir()
    (text_folder / ".git" / "HEAD").write_text("hidden")
    assert read(open_path(files[3])) == [files[3].read_bytes()]
    assert read(open_path(text_folder)) == [path.read_bytes() for path in files]
    assert read(open_path(text_folder / "1*.txt")) == [path.read_bytes() for path in files[10:20]]


def test_split_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ftwo")
    assert read(open_path(tmp_path / "a.txt", split_on="\f")) == [b"one\f", b"two"]
    with pytest.raises(DataError, match="split_on does not apply to sample:train: it cuts text files"):
        open_path("sample:train", split_on="\f")


def test_the_sample_is_split_and_complete() -> None:
    train, held_out = open_path("sample:train"), open_path("sample:validation")
    texts = {path.name: path.read_bytes() for path in FOLDER.glob("*.txt")}
    assert sum(map(len, texts.values())) == 996_186
    documents = read(train) + read(held_out)
    assert sum(map(len, documents)) == 996_186
    assert len(set(documents)) == len(documents)
    for text in texts.values():
        held = [document for document in read(held_out) if document in text]
        assert 0.02 < sum(map(len, held)) / len(text) < 0.07
    for document in documents:
        document.decode()
    sizes = sorted(map(len, documents))
    assert sizes[len(texts)] >= 2048 and sizes[-1] <= 8192
    assert (FOLDER / "LICENSE.chinese-poetry").read_text().count("(c) 2016 JackeyGao") == 1


def test_empty_files_are_skipped_and_reported_once(text_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (text_folder / "31.txt").touch()
    with caplog.at_level(logging.WARNING):
        assert len(open_path(text_folder)) == 31
    assert [record.message for record in caplog.records] == [f"{text_folder}: 1 empty file skipped"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{folder}/none.txt", r"none\.txt does not exist; a source is a file .* or the name of a dataset on the Hub"),
        ("none.parquet", r"none\.parquet does not exist; a source is"),
        ("../nowhere/else", r"\.\./nowhere/else does not exist"),
        ("a/b/c", r"a/b/c does not exist"),
        ("{folder}/*.txt", r"no file matches .*\*\.txt"),
        ("{folder}", r"folder .* holds no files"),
        ("{folder}/empty", r"empty is empty: 1 file with 0 bytes of text"),
        ("{folder}/packed.txt.gz", r"packed\.txt\.gz is compressed; unpack it first"),
        ("sample:test", r"sample:test does not exist; the shipped text has sample:train and sample:validation"),
    ],
)
def test_bad_paths(tmp_path: Path, path: str, message: str) -> None:
    if path != "{folder}":
        for name in ("empty", "packed.txt.gz"):
            (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        open_path(path.format(folder=tmp_path) if path != "{folder}/*.txt" else f"{tmp_path}/x*.txt")


def test_text_is_not_streamed(text_folder: Path) -> None:
    with pytest.raises(DataError, match="text files are memory-mapped anyway, so leave out streaming"):
        open_path(text_folder, streaming=True)


def test_a_dataset_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    for streaming in (False, True):
        with pytest.raises(
            DataError, match="owner/none is neither a local file or folder nor a dataset that can be loaded"
        ):
            open_source(SourceConfig(path="owner/none", streaming=streaming))


def test_kinds_of_source_are_told_apart() -> None:
    assert not isinstance(open_path("sample:train"), StreamedSource)
