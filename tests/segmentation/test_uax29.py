"""Each rule of UAX #29, on characters that nothing else divides or joins."""

import numpy as np
import pytest

from hnet.segmentation.characters import WordBreak, load_kinds
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


def test_characters_that_join_what_follows_are_punctuation() -> None:
    """So no rule needs to look ahead: the splitter divides after punctuation and joins it to what is before."""
    kinds = load_kinds()
    joins = [WordBreak.MidLetter, WordBreak.MidNum, WordBreak.MidNumLet, WordBreak.Single_Quote, WordBreak.Double_Quote]
    of_code = kinds.of_code[:0x110000]
    middle = np.isin(kinds.word_break, joins)
    assert middle[of_code].sum() == 31 - 1  # U+2044 is left out
    assert kinds.punctuation[of_code][middle[of_code]].all()
