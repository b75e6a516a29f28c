"""Laws that hold for every model that continues text, in float64, as checks of one model that raise AssertionError.

1: packed = each document alone. 2: prefill and steps = all at once. 3: what comes later changes nothing before.
"""

import random

import torch
from torch import Tensor

from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.segmentation.layout import LayoutTracker
from hnet.testing.combinations import TextPack, random_text, text_pack


def random_documents(config: ModelConfig, seed: int) -> TextPack:
    """Of one unit, of a few, and of many."""
    draw = random.Random(seed)
    return text_pack(
        config, [random_text(length, draw) for length in (draw.randrange(2, 12), 1, draw.randrange(14, 24))]
    )


def outputs(model: LanguageModel, pack: TextPack) -> Tensor:
    """(T, V)."""
    logits: Tensor = model(pack.ids, pack.cu_seqlens, marks=pack.marks).logits
    return logits


def one_of(pack: TextPack, start: int, end: int) -> TextPack:
    """The units from `start` to `end`, of one document."""
    marks = None if pack.marks is None else pack.marks[start:end]
    return TextPack(pack.ids[start:end], torch.tensor([0, end - start]).int(), marks)


def check_packed_is_alone(model: LanguageModel, pack: TextPack) -> None:
    """Law 1."""
    packed = outputs(model, pack)
    for start, end in pack.spans:
        _assert_close(outputs(model, one_of(pack, start, end)), packed[start:end])


def check_steps_are_the_whole(model: LanguageModel, pack: TextPack, seed: int) -> None:
    """Law 2: a prefix of each document at once and the rest in steps, at different speeds, with marks from a tracker of
    each."""
    full, spans, draw = outputs(model, pack), pack.spans, random.Random(seed)
    trackers = [model.layout().tracker() for _ in spans]
    prefix = [draw.randint(1, end - start) for start, end in spans]
    taken = torch.cat([torch.arange(start, start + n) for (start, _), n in zip(spans, prefix, strict=True)])
    given = _pushed(trackers, pack, [range(start, start + n) for (start, _), n in zip(spans, prefix, strict=True)])
    needs_marks = model.config.needs_marks
    if needs_marks:
        assert pack.marks is not None and torch.equal(given, pack.marks[taken]), "trackers say what rules say"
    cache = model.new_cache(len(spans))
    cu_seqlens = torch.tensor([0, *prefix]).cumsum(0).int()
    prefilled = model.prefill(pack.ids[taken], cu_seqlens, cache, given if needs_marks else None).logits
    _assert_close(prefilled, full[taken])
    place = [start + n for (start, _), n in zip(spans, prefix, strict=True)]
    while unfinished := [row for row, (_, end) in enumerate(spans) if place[row] < end]:
        rows = [row for row in unfinished if draw.random() < 0.7] or unfinished
        index = torch.tensor([place[row] for row in rows])
        marks = _pushed([trackers[row] for row in rows], pack, [[place[row]] for row in rows])
        logits, _ = model.step(pack.ids[index], cache, torch.tensor(rows), marks if needs_marks else None)
        _assert_close(logits, full[index])
        place = [unit + (row in rows) for row, unit in enumerate(place)]


def check_later_units_change_nothing(model: LanguageModel, pack: TextPack, seed: int) -> None:
    """Law 3: of every document the units after some unit are others, and so are their marks; also the marks alone."""
    draw, before = random.Random(seed), outputs(model, pack)
    changed, marks = pack.ids.clone(), None if pack.marks is None else pack.marks.clone()
    kept = torch.zeros(len(changed), dtype=torch.bool)
    layout = model.layout()
    for start, end in pack.spans:
        cut = draw.randint(start, end - 1)
        kept[start : cut + 1] = True
        rest = torch.tensor(random_text(end - cut, draw)[: end - cut - 1], dtype=torch.int64)
        if layout.separators and len(rest):
            is_text = torch.tensor([draw.random() < 0.7 for _ in rest])
            rest = rest.where(is_text, layout.separators[0])
        changed[cut + 1 : end] = rest
        if marks is not None:
            marks[start:end] = torch.from_numpy(layout.marks_of(changed[start:end].numpy()))
    if marks is not None:
        assert pack.marks is not None and torch.equal(marks[kept], pack.marks[kept]), "rules are right-stable"
        other = outputs(model, TextPack(pack.ids, pack.cu_seqlens, marks))
        _assert_close(other[kept], before[kept])
    other = outputs(model, TextPack(changed, pack.cu_seqlens, marks))
    _assert_close(other[kept], before[kept])


def _pushed(trackers: list[LayoutTracker], pack: TextPack, places: list[range] | list[list[int]]) -> Tensor:
    codes = [
        tracker.push(int(pack.ids[place])) for tracker, of_row in zip(trackers, places, strict=True) for place in of_row
    ]
    return torch.tensor(codes, dtype=torch.uint8)


def _assert_close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-7)
