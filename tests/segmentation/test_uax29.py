"""Each rule of UAX #29, on characters that nothing else divides or joins."""

import pytest

from hnet.segmentation.words import WordsRule
from tests.segmentation.chunks import pieces

MARK, JOINER, HYPHEN = "\u0301", "\u200d", "\u00ad"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("WB3", "a|\r\n|\n|\r|b"),
        ("WB3a, WB3b", "a|\n|" + MARK + "|b"),
        ("WB3c", "👩" + JOINER + "👩|👩"),
        ("WB3d", "a|   |b"),
        ("WB3d, WB4", "a| " + MARK + "| b"),
        ("WB4", "a" + MARK + HYPHEN + "b|=" + MARK + "|="),
        ("WB5", "aβж"),
        ("WB7", "a:|b|=:|b"),
        ("WB7", "a'|" + MARK + "b"),
        ("WB7", "=|1'|" + MARK + "|b"),
        ("WB7c", 'א"|' + MARK + "א"),
        ("WB7c", 'a"|' + MARK + "|b"),
        ("WB8, WB9, WB10", "a12b3"),
        ("WB12", "1,|" + MARK + "2"),
        ("WB12", "a,|" + MARK + "|2"),
        ("WB13", "カナ|a|ナ"),
        ("WB13a, WB13b", "a\u202f1\u202fカ|+"),
        ("WB15, WB16", "🇦🇦|🇦🇦|🇦|x|🇦🇦"),
        ("WB15, WB16", "🇦" + MARK + "🇦|🇦"),
        ("WB999", "漢|字|+|あ"),
    ],
)
def test_word_boundaries(rule: str, text: str) -> None:
    assert pieces(WordsRule(), text.replace("|", "")) == [piece.encode() for piece in text.split("|")], rule
