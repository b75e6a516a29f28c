"""The word rules against their published examples."""

import numpy as np
import pytest

from hnet.segmentation.rule import chunk_starts
from hnet.segmentation.words import WordsRule
from tests.segmentation.chunks import pieces


@pytest.mark.parametrize(
    "text",
    [
        "Hello,| world!",
        "1,|234,|567",
        "x|+|1",
        "snake_|case_|name",
        "don'|t",
        "camel|Case",
        "HTTPServer",
        "two|  |spaces|\n|\n|one| line",
        "日|本|語",
        "カタカナ| 한국어",
        "ไ|ท|ย",
        "a| .|\t|b",
        "🇨🇭|🇩🇪|x",
        "👩‍👩‍👧|é",
    ],
)
def test_words_of_hat_splitter(text: str) -> None:
    expected = text.split("|")
    assert pieces(WordsRule(), text.replace("|", "")) == [piece.encode() for piece in expected]


def test_white_space_belongs_to_the_word_before_it() -> None:
    assert pieces(WordsRule("white_space"), " Hi,  you\n\nall.") == [b" ", b"Hi,  ", b"you\n\n", b"all."]


def test_long_words_are_cut_before_a_character() -> None:
    assert pieces(WordsRule(max_bytes=5), "abcdefg hi äöü") == [b"abcde", b"fg", b" hi", " äö".encode(), "ü".encode()]


def test_the_first_unit_begins_a_chunk_without_a_code() -> None:
    marks = WordsRule().mark(np.array([254, *"é".encode(), 255], dtype=np.int64))
    assert marks.tolist() == [0, 2, 0, 2] and chunk_starts(marks).tolist() == [0, 1, 3]
