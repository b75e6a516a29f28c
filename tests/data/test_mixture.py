"""Weighted mixtures."""

from itertools import islice
from typing import Any

import pytest

from hnet.data.indexed import IndexedDocuments
from hnet.data.limit import Limited
from hnet.data.mixture import Mixture


def test_shares_hold_over_every_stretch(list_source: Any) -> None:
    long, short = list_source([b"L" * 50] * 7), list_source([b"s" * 3] * 11)
    mixture = Mixture([IndexedDocuments(long), IndexedDocuments(short)], [0.3, 0.1])
    drawn = {b"L"[0]: 0, b"s"[0]: 0}
    for document in islice(mixture, 2000):
        drawn[int(document.read()[0])] += document.num_bytes
        total = sum(drawn.values())
        assert abs(drawn[b"L"[0]] - 0.75 * total) <= 50
    assert drawn[b"L"[0]] / sum(drawn.values()) == pytest.approx(0.75, abs=0.01)


def test_one_source_passes_through(list_source: Any) -> None:
    source = list_source([b"a", b"b", b"c"])
    documents = Mixture([IndexedDocuments(source, shuffle=False, epochs=1)], [2.0])
    assert [document.read().tobytes() for document in documents] == source.texts


def test_a_finite_source_leaves(list_source: Any) -> None:
    streams = [
        IndexedDocuments(list_source([b"aa"] * 2), epochs=1),
        IndexedDocuments(list_source([b"b"] * 9), epochs=1),
    ]
    drawn = b"".join(document.read().tobytes() for document in Mixture(streams, [1, 1]))
    assert drawn == b"aabbaabb" + b"b" * 5


@pytest.mark.parametrize("epochs", [None, 1])
def test_resumes_anywhere(list_source: Any, assert_resumes: Any, epochs: int | None) -> None:
    def make() -> Mixture:
        sources = [list_source([b"%d" % i * (i % 5) for i in range(size)]) for size in (5, 9, 30)]
        return Mixture([IndexedDocuments(source, key=2, epochs=epochs) for source in sources], [1, 0.5, 7])

    assert_resumes(make, 60)


def test_limit_cuts_before_a_character(list_source: Any, assert_resumes: Any) -> None:
    source = list_source(["学而时".encode(), b"abc", b"\x80" * 9])

    def make(limit: int) -> Limited:
        return Limited(IndexedDocuments(source, shuffle=False, epochs=1), limit)

    def read(limit: int) -> list[tuple[bytes, bool]]:
        return [(document.read().tobytes(), document.complete) for document in make(limit)]

    assert read(9) == [("学而时".encode(), True)]
    assert read(8) == [("学而".encode(), False)]
    assert read(10) == [("学而时".encode(), True), (b"a", False)]
    assert read(99)[-1] == (b"\x80" * 9, True)
    assert len(read(17)[-1][0]) in (2, 3, 4, 5)
    assert_resumes(lambda: make(10))
