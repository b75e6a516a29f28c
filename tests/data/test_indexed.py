"""The order of documents."""

from itertools import islice
from typing import Any

import pytest

from hnet.data.indexed import IndexedDocuments
from hnet.errors import DataError

TEXTS = [b"a", b"", b"bb", b"ccc", b"", b"d" * 9, b"e"]
FULL = sorted(text for text in TEXTS if text)


def texts(documents: IndexedDocuments, number: int) -> list[bytes]:
    return [document.read().tobytes() for document in islice(documents, number)]


def test_in_order_without_empty_documents(list_source: Any) -> None:
    source = list_source(TEXTS)
    assert texts(IndexedDocuments(source, shuffle=False, epochs=1), 99) == [b"a", b"bb", b"ccc", b"d" * 9, b"e"]


def test_each_epoch_has_every_document_in_its_own_order(list_source: Any) -> None:
    source = list_source([b"%d" % number for number in range(3000)])
    documents = IndexedDocuments(source, key=3)
    first, second = texts(documents, 3000), texts(documents, 3000)
    assert sorted(first) == sorted(second) == sorted(source.texts)
    assert first != second != source.texts
    assert texts(IndexedDocuments(source, key=3), 3000) == first
    assert texts(IndexedDocuments(source, key=4), 3000) != first


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("epochs", [None, 2])
def test_resumes_anywhere(list_source: Any, assert_resumes: Any, shuffle: bool, epochs: int | None) -> None:
    assert_resumes(lambda: IndexedDocuments(list_source(TEXTS), key=1, shuffle=shuffle, epochs=epochs))


def test_nothing_is_read_to_find_the_order(list_source: Any) -> None:
    source = list_source([b"x" * 10] * 100)
    assert len(list(IndexedDocuments(source, epochs=1))) == 100
    assert source.read_indexes == set()


@pytest.mark.parametrize("texts", [[], [b"", b""]])
def test_no_text(list_source: Any, texts: list[bytes]) -> None:
    with pytest.raises(DataError, match=f"list holds no text: it has {len(texts)} documents and all are empty"):
        IndexedDocuments(list_source(texts))
