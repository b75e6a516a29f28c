"""Documents that arrive one after another."""

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from hnet.data.streamed import StreamedDocuments
from hnet.errors import DataError


class CountingReader:
    def __init__(self, texts: list[bytes], position: int) -> None:
        self._texts, self._position = texts, position

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._position == len(self._texts):
            raise StopIteration
        self._position += 1
        return self._texts[self._position - 1]

    def position(self) -> int:
        return self._position


class ListStream:
    name = "stream"

    def __init__(self, texts: list[bytes]) -> None:
        self.texts = texts

    def open(self, position: Any) -> CountingReader:
        return CountingReader(self.texts, position or 0)


TEXTS = [b"%d" % number if number % 7 else b"" for number in range(50)]
FULL = [text for text in TEXTS if text]


def texts(documents: StreamedDocuments, number: int) -> list[bytes]:
    return [document.read().tobytes() for document in islice(documents, number)]


def test_shuffles_within_blocks() -> None:
    documents = StreamedDocuments(ListStream(TEXTS), key=1, buffer=10)
    first, second = texts(documents, len(FULL)), texts(documents, len(FULL))
    assert sorted(first) == sorted(second) == sorted(FULL)
    assert first != second
    for start in range(0, len(FULL), 10):
        assert sorted(first[start : start + 10]) == sorted(FULL[start : start + 10])
    assert first[:10] != FULL[:10]


def test_in_order() -> None:
    assert texts(StreamedDocuments(ListStream(TEXTS), shuffle=False, epochs=2), 999) == FULL * 2


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("buffer", [1, 6, 43, 1000])
def test_resumes_anywhere(assert_resumes: Any, shuffle: bool, buffer: int) -> None:
    def make() -> StreamedDocuments:
        return StreamedDocuments(ListStream(TEXTS), key=5, buffer=buffer, shuffle=shuffle)

    assert_resumes(make, 60)


def test_empty_documents_are_counted_and_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    documents = StreamedDocuments(ListStream(TEXTS), epochs=3)
    with caplog.at_level(logging.WARNING):
        assert len(list(documents)) == 3 * len(FULL)
    assert [record.message for record in caplog.records] == ["stream: 8 empty documents were skipped in an epoch"]
    assert documents.num_empty == 24


@pytest.mark.parametrize("texts", [[], [b"", b""]])
def test_no_text(texts: list[bytes]) -> None:
    with pytest.raises(DataError, match="stream holds no text"):
        next(StreamedDocuments(ListStream(texts)))
