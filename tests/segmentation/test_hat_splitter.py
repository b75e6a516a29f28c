"""Words are those of hat-splitter 0.1.10, but for three differences; docs/segmentation.md lists them too."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hnet.data.sample_text import open_sample
from hnet.segmentation.characters import load_kinds
from hnet.segmentation.rule import chunk_starts
from hnet.segmentation.words import WordsRule
from tests.segmentation.chunks import pieces, units

hat_splitter = pytest.importorskip("hat_splitter", reason="hat-splitter comes with the [dev] extra")


def split(text: str, max_bytes: int = 1 << 30) -> list[bytes]:
    return list(hat_splitter.HATSplitter().split_with_limit(text, max_bytes))


def _examples_of_every_kind() -> list[str]:
    """First, middle and last character of each kind."""
    kinds = load_kinds().of_code[:0x110000].copy()
    kinds[0xD800:0xE000] = 255
    of_kind = [np.flatnonzero(kinds == kind) for kind in sorted(set(kinds.tolist()) - {255})]
    return [chr(codes[place]) for codes in of_kind for place in {0, len(codes) // 2, len(codes) - 1}]


EXAMPLES = _examples_of_every_kind()
LETTERS_THAT_ARE_PICTOGRAPHS = "".join(
    chr(code)
    for code in np.flatnonzero(
        (load_kinds().pictographic & (load_kinds().word_break > 0))[load_kinds().of_code[:0x110000]]
    ).tolist()
)
DIFFERENT = re.compile(rf"\u2044| (?! )\s|\u200d[{LETTERS_THAT_ARE_PICTOGRAPHS}]")


@settings(max_examples=1500, deadline=None)
@given(text=st.text(st.sampled_from([*EXAMPLES, " ", "a", "1"]), min_size=1, max_size=12), max_bytes=st.integers(4, 12))
def test_any_text(text: str, max_bytes: int) -> None:
    assume(not DIFFERENT.search(text))
    assert pieces(WordsRule(), text) == split(text)
    assert pieces(WordsRule(max_bytes=max_bytes), text) == split(text, max_bytes)


@pytest.mark.parametrize(
    "context", ["a{0}a{0}{0}1'{0}", "\n{0}1 {0}.{0}", 'ב{0}"בA{0}ァ{0}カ_{0}b', "🇦{0}🇦🇦 {0} \u0301"]
)
def test_every_character(context: str) -> None:
    """All but private and unassigned planes, each in a few places."""
    codes = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000)]
    text = "\n".join(context.format(chr(code)) for code in codes if code != 0x2044)
    ends = np.cumsum([len(piece) for piece in split(text)])
    np.testing.assert_array_equal(chunk_starts(WordsRule().mark(units(text)))[1:], ends[:-1])


@pytest.mark.parametrize("name", ["train", "validation"])
def test_real_text(name: str) -> None:
    source = open_sample(name)
    for index in range(len(source)):
        text = source.read(index).tobytes().decode()
        assert pieces(WordsRule(max_bytes=100), text) == split(text, 100)


@pytest.mark.parametrize(
    ("text", "ours", "theirs"),
    [
        # What comes next decides about what is before: "1⁄" and " \t" are divided, so they stay so.
        ("1⁄2", "1|⁄|2", "1⁄2"),
        (" \t\u0301a", " |\t\u0301|a", " \t\u0301|a"),
        # WB5 joins letters; the splitter forgets that a pictograph after a joiner was one.
        ("\u200dℹa", "\u200dℹa", "\u200dℹ|a"),
    ],
)
def test_differences(text: str, ours: str, theirs: str) -> None:
    assert pieces(WordsRule(), text) == [piece.encode() for piece in ours.split("|")]
    assert split(text) == [piece.encode() for piece in theirs.split("|")]
