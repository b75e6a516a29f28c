"""What every rule promises: codes that later units do not change, and the same ones unit by unit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.rule import Rule, chunk_starts
from hnet.segmentation.space_like import SpaceLikeRule
from hnet.segmentation.words import WordsRule
from tests.segmentation.chunks import pieces, units

RULES: list[Rule] = [
    FixedRule(1),
    FixedRule(5),
    SpaceLikeRule(),
    SpaceLikeRule("after"),
    WordsRule(),
    WordsRule(max_bytes=4),
    WordsRule(max_bytes=9),
    WordsRule("white_space"),
    WordsRule("white_space", max_bytes=6),
]
# One or more characters of every kind that the rules tell apart, among them U+2044 and letters that are pictographs.
CHARACTERS = (
    "aZ09 .,'\"_\n\r\t\u2028\x85\xa0\u3000\u202f\u0301\u200d\u00ad\u05d0\u05f3\u30ab\u2044\u00b7é\u4e00ไ\U0001f1e8😀ℹ한"
)
TEXT = st.text(st.sampled_from(CHARACTERS), max_size=24).map(str.encode)
BYTES = st.lists(
    st.sampled_from([*b"a .", 0x80, 0xBF, 0xC0, 0xC3, 0xE0, 0xA0, 0xE4, 0xB8, 0xED, 0xF0, 0x9F, 0xF4, 254, 255])
)
SEQUENCES = st.one_of(
    TEXT, BYTES.map(bytes), st.tuples(TEXT, BYTES.map(bytes), TEXT).map(b"".join), st.binary(max_size=24)
)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=150, deadline=None)
@given(text=SEQUENCES)
def test_codes_are_those_of_the_tracker_and_do_not_change(rule: Rule, text: bytes) -> None:
    ids = units(text)
    marks = rule.mark(ids)
    tracker = rule.tracker()
    assert marks.dtype == np.uint8 and marks.tolist() == [tracker.push(unit) for unit in ids.tolist()]
    for stop in range(len(ids)):
        assert rule.mark(ids[:stop]).tolist() == marks[:stop].tolist()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@settings(max_examples=150, deadline=None)
@given(text=SEQUENCES)
def test_chunks_are_known_in_order_within_the_look_ahead(rule: Rule, text: bytes) -> None:
    marks = rule.mark(units(text))
    starts = chunk_starts(marks)
    assert (np.diff(starts) > 0).all() and b"".join(pieces(rule, text)) == text
    waits = np.flatnonzero(marks) - starts[1:]
    assert (waits <= rule.look_ahead).all() and (waits >= -1).all()


def test_fixed_chunks() -> None:
    assert pieces(FixedRule(3), b"abcdefgh") == [b"abc", b"def", b"gh"]
    assert FixedRule(3).mark(units(b"abc")).tolist() == [0, 0, 1]


def test_space_like_bytes_of_the_published_code() -> None:
    """`spacelike` in the repository kjslag/spacebyte, byte by byte."""
    first_of_run = {byte for byte in range(254) if len(pieces(SpaceLikeRule(), b"a" + bytes([byte]))) == 2}
    ascii_ones = set(range(0x30)) | set(range(0x3A, 0x41)) | set(range(0x5B, 0x61)) | set(range(0x7B, 0x80))
    assert first_of_run == ascii_ones | set(range(0xC0, 254))


@pytest.mark.parametrize(
    ("text", "at", "after"),
    [
        ("The cat, too.", "The| cat|, too|.", "The |cat,| too.|"),
        ("é日x", "é|日x", "\xc3|\xa9\xe6|\x97\xa5x"),
        ("a  b\n\nc", "a|  b|\n\nc", "a | b\n|\nc"),
    ],
)
def test_space_like_chunks(text: str, at: str, after: str) -> None:
    assert pieces(SpaceLikeRule(), text) == [piece.encode() for piece in at.split("|")]
    expected = after.encode("latin-1").split(b"|")
    assert pieces(SpaceLikeRule("after"), text) == [piece for piece in expected if piece]


def test_begin_and_end_of_document_divide() -> None:
    text = bytes([254]) + b"ab" + bytes([255])
    assert pieces(SpaceLikeRule(), text) == [b"\xfeab", b"\xff"]
    assert pieces(SpaceLikeRule("after"), text) == [b"\xfe", b"ab\xff"]
    assert pieces(WordsRule(), text) == [b"\xfe", b"ab", b"\xff"]


def test_bytes_that_are_no_utf8_belong_to_the_word_before_them() -> None:
    assert pieces(WordsRule(), b"caf\xe9 au\xff\x80 lait\xe4\xb8.") == [
        b"caf\xe9",
        b" au",
        b"\xff",
        b"\x80",
        b" lait\xe4\xb8",
        b".",
    ]


@pytest.mark.parametrize(
    ("rule", "message"), [(lambda: FixedRule(0), "stride is 0"), (lambda: WordsRule(max_bytes=3), "at least 4")]
)
def test_senseless_sizes_are_refused(rule: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule()  # type: ignore[operator]


def test_units_that_are_no_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="unit 256 is no byte"):
        WordsRule().mark(np.array([65, 256]))
