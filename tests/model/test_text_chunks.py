"""Models whose chunks come from text: packed = alone, prefill and steps = full pass, causality, with real layouts."""

import numpy as np
import pytest
import torch

from hnet.config import load_config
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.segmentation.layout import Layout
from hnet.testing.strategies import random_model

CLOSE = {"atol": 1e-9, "rtol": 1e-7}
CONFIGS = ["hat_small", "etok_small", "megabyte_small", "tfree_hat_small"]
TEXTS = ["A naïve word, x+1.", "b", "Zwei  Wörter\n\nund 日本 end-of"]


def laid_out(layout: Layout, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Units and marks of BOS, the text and EOS; marks are 0 where the model needs none."""
    ids = np.array([254, *text.encode(), 255], dtype=np.int64)
    laid = layout.lay_out(ids)
    marks = np.zeros(len(laid.ids), dtype=np.uint8) if laid.marks is None else laid.marks
    return torch.from_numpy(laid.ids), torch.from_numpy(marks)


def packed(layout: Layout) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """The texts as one pack: ids, marks, lengths."""
    ids, marks = zip(*[laid_out(layout, text) for text in TEXTS], strict=True)
    return torch.cat(ids), torch.cat(marks), [len(document) for document in ids]


def ends_of(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).int()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return random_model(load_config(ModelConfig, request.param), seed=3)


@torch.no_grad()
def test_packed_equals_alone(model: LanguageModel) -> None:
    ids, marks, lengths = packed(model.layout())
    together = model(ids, ends_of(lengths), marks=marks)
    for own, own_marks, logits in zip(
        ids.split(lengths), marks.split(lengths), together.logits.split(lengths), strict=True
    ):
        torch.testing.assert_close(model(own, marks=own_marks).logits, logits, **CLOSE)
    torch.testing.assert_close(model(ids, ends_of(lengths)).logits, together.logits, atol=0, rtol=0)


@torch.no_grad()
def test_prefill_and_steps_equal_the_full_pass(model: LanguageModel) -> None:
    ids, marks, lengths = packed(model.layout())
    full = model(ids, ends_of(lengths), marks=marks).logits
    starts = ends_of(lengths).tolist()
    for fraction in (0.0, 0.3, 0.7):
        prefix = [1 + int(fraction * (length - 1)) for length in lengths]
        taken = torch.cat([torch.arange(a, a + n) for a, n in zip(starts, prefix, strict=False)])
        cache = model.new_cache(len(lengths))
        prefilled = model.prefill(ids[taken], ends_of(prefix), cache, marks[taken]).logits
        torch.testing.assert_close(prefilled, full[taken], **CLOSE)
        trackers = [model.layout().tracker() for _ in lengths]
        for row, (start, n) in enumerate(zip(starts, prefix, strict=False)):
            for unit in ids[start : start + n].tolist():
                trackers[row].push(unit)
        for offset in range(max(lengths)):
            rows = [row for row, length in enumerate(lengths) if prefix[row] + offset < length]
            if not rows:
                break
            index = torch.tensor([starts[row] + prefix[row] + offset for row in rows])
            codes = [trackers[row].push(unit) for row, unit in zip(rows, ids[index].tolist(), strict=True)]
            assert codes == marks[index].tolist() or not model.config.needs_marks
            logits, _ = model.step(ids[index], cache, torch.tensor(rows), torch.tensor(codes, dtype=torch.uint8))
            torch.testing.assert_close(logits, full[index], **CLOSE)


@torch.no_grad()
def test_what_follows_changes_nothing_before(model: LanguageModel) -> None:
    layout, text = model.layout(), TEXTS[2]
    ids, marks = laid_out(layout, text)
    logits = model(ids, marks=marks).logits
    for cut in range(0, len(text), 3):
        other, other_marks = laid_out(layout, text[:cut] + "Q, ü" + text[cut:])
        same = min(len(ids), len(other))
        apart = ((ids[:same] != other[:same]) | (marks[:same] != other_marks[:same])).nonzero()[0].item()
        assert apart >= cut
        torch.testing.assert_close(model(other, marks=other_marks).logits[:apart], logits[:apart], **CLOSE)
        assert not torch.equal(model(other, marks=other_marks).logits[apart], logits[apart])


def test_every_parameter_learns(model: LanguageModel) -> None:
    layout = model.layout()
    ids, marks, lengths = packed(layout)
    labels = [layout.lay_out(np.array([254, *text.encode(), 255])).labels for text in TEXTS]
    model.zero_grad()
    model.loss(ids, ends_of(lengths), torch.from_numpy(np.concatenate(labels)), marks).total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
