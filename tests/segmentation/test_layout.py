"""Separators come before every chunk, and every text unit is predicted once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.errors import DataError
from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.layout import IGNORE, LaidOut, Layout
from hnet.segmentation.rule import Rule, chunk_starts
from hnet.segmentation.space_like import SpaceLikeRule
from hnet.segmentation.words import WordsRule
from tests.segmentation.chunks import units

LAYOUTS = [
    Layout(),
    Layout(WordsRule()),
    Layout(WordsRule(max_bytes=8), (253,)),
    Layout(WordsRule(), (253, 252, 251)),
    Layout(SpaceLikeRule(), (253, 252)),
    Layout(FixedRule(4), (253,), predict_separator=False),
    Layout(FixedRule(3), (250, 249), predict_separator=False),
    Layout(SpaceLikeRule("after"), (253,), predict_separator=False),
]
TEXT = st.text(st.sampled_from("ab .\né日😀"), min_size=1, max_size=30).map(str.encode)


def show(ids: np.ndarray) -> str:
    """Separators as brackets, ignored labels as dashes."""
    names = {253: "[", 252: "]", 254: "<", 255: ">", IGNORE: "-"}
    return "".join(names[unit] if unit in names else chr(unit) for unit in ids.tolist())


def laid_out(layout: Layout, text: str, following: str = "") -> LaidOut:
    ids = {"<": 254, ">": 255}
    return layout.lay_out(*(np.array([ids.get(c, ord(c)) for c in part], dtype=np.int64) for part in (text, following)))


def test_predicted_separators() -> None:
    out = laid_out(Layout(WordsRule(), (253,)), "<Hi you>")
    assert show(out.ids) == "[<[Hi[ you[>"
    assert show(out.labels) == "-[Hi[ you[>-"
    assert out.marks is not None
    assert chunk_starts(out.marks).tolist() == [0, 2, 5, 10]
    assert out.source.tolist() == [-1, 0, -1, 1, 2, -1, 3, 4, 5, 6, -1, 7]


def test_separators_after_the_first_are_never_predicted() -> None:
    out = laid_out(Layout(WordsRule(), (253, 252)), "Hi you")
    assert (show(out.ids), show(out.labels)) == ("[]Hi[] you", "--i[- you-")


def test_separators_that_are_counted_are_not_predicted() -> None:
    out = laid_out(Layout(FixedRule(3), (253,), predict_separator=False), "abcdefg", "h")
    assert (show(out.ids), show(out.labels)) == ("[abc[def[g", "-bc-def-gh")


@pytest.mark.parametrize(
    ("text", "following", "ids", "labels"),
    [("a wo", "rd", "[a[ wo", "-[ wor"), ("a word", " is", "[a[ word[", "-[ word[ "), ("a", "", "[a", "--")],
)
def test_a_cut_sequence_ends_with_the_separator_of_the_next_word(
    text: str, following: str, ids: str, labels: str
) -> None:
    out = laid_out(Layout(WordsRule(), (253,)), text, following)
    assert (show(out.ids), show(out.labels)) == (ids, labels)


def test_a_word_is_recognised_across_the_cut() -> None:
    layout = Layout(WordsRule(), (253,))
    assert layout.reach == 4
    out = layout.lay_out(units(b"ab"), units("😀".encode()))
    assert show(out.labels[:-1]) == "-b[" and out.labels[-1] == 0xF0


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@settings(max_examples=100, deadline=None)
@given(text=TEXT, data=st.data())
def test_pieces_predict_every_unit_once_and_give_the_text_back(
    layout: Layout, text: bytes, data: st.DataObject
) -> None:
    ids = np.array([254, *text, 255], dtype=np.int64)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ids) - 1), max_size=3)))
    predicted: list[int] = []
    for begin, end in zip([0, *cuts], [*cuts, len(ids)], strict=True):
        out = layout.lay_out(ids[begin:end], ids[end : end + layout.reach])
        assert layout.strip(out.ids).tolist() == ids[begin:end].tolist()
        assert (out.source >= 0).sum() == end - begin and (out.ids[out.source >= 0] == ids[begin:end]).all()
        predicted += [unit for unit in out.labels.tolist() if unit != IGNORE and unit not in layout.separators]
    assert predicted == ids[1:].tolist()


@pytest.mark.parametrize("layout", LAYOUTS, ids=repr)
@settings(max_examples=100, deadline=None)
@given(text=TEXT)
def test_generation_follows_the_layout(layout: Layout, text: bytes) -> None:
    """The tracker gives the marks of what was laid out, and forces exactly what has no label."""
    out = layout.lay_out(np.array([254, *text, 255], dtype=np.int64))
    tracker = layout.tracker()
    codes, forced = [], []
    for unit in out.ids.tolist():
        forced.append(tracker.forced())
        codes.append(tracker.push(unit))
    assert codes == (out.marks.tolist() if out.marks is not None else [0] * len(out.ids))
    for unit, expected, label in zip(out.ids[1:].tolist(), forced[1:], out.labels[:-1].tolist(), strict=True):
        assert expected is None or expected == unit
        assert (unit in layout.never_sampled) == (expected is not None)
        assert expected is None or label == IGNORE


@pytest.mark.parametrize(
    ("layout", "units_before", "unit", "message"),
    [
        (Layout(WordsRule(), (253, 252)), [], 97, "unit 97 .* wants 253"),
        (Layout(WordsRule(), (253, 252)), [253], 97, "unit 97 .* wants 252"),
        (Layout(WordsRule(), (253, 252)), [253, 252], 252, "unit 252 .* wants any but .253, 252."),
        (Layout(WordsRule(), (253, 252)), [253, 252], 253, "unit 253 .* wants any but .253, 252."),
        (
            Layout(FixedRule(2), (253,), predict_separator=False),
            [253, 97],
            253,
            "unit 253 .* wants any but .253,.",
        ),
        (Layout(FixedRule(2), (253,), predict_separator=False), [253, 97, 97], 97, "unit 97 .* wants 253"),
    ],
)
def test_separators_out_of_place_are_refused(layout: Layout, units_before: list[int], unit: int, message: str) -> None:
    tracker = layout.tracker()
    for before in units_before:
        tracker.push(before)
    with pytest.raises(ValueError, match=message):
        tracker.push(unit)


def test_text_with_a_separator_is_refused() -> None:
    with pytest.raises(DataError, match="byte 253"):
        Layout(WordsRule(), (253,)).lay_out(units(b"a\xfdb"))


@pytest.mark.parametrize(
    ("rule", "separators", "predict", "message"),
    [
        (WordsRule(), (65,), True, "occur in no UTF-8"),
        (WordsRule(), (254,), True, "occur in no UTF-8"),
        (WordsRule(), (253, 253), True, "different units"),
        (None, (253,), True, "need a rule"),
        (WordsRule(), (253,), False, "too late to place a separator"),
    ],
)
def test_layouts_that_cannot_be_generated_are_refused(
    rule: Rule | None, separators: tuple[int, ...], predict: bool, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(rule, separators, predict)
