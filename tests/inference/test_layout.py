"""Generation by models that are told where chunks begin: what they read is the layout of what they say."""

from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import hnet
from hnet.data.tokenizer import ByteTokenizer
from hnet.errors import ConfigError, DataError
from hnet.inference.generation import generate, stream, stream_ids
from hnet.inference.sampling import Sampler
from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.layout import LaidOut, Layout
from hnet.segmentation.space_like import SpaceLikeRule
from hnet.segmentation.words import WordsRule

LAYOUTS = {
    "words": Layout(WordsRule()),
    "words, separated": Layout(WordsRule(), (253,)),
    "words, three separators": Layout(WordsRule(), (253, 252, 251)),
    "space-like": Layout(SpaceLikeRule()),
    "fixed": Layout(FixedRule(4), (253,), predict_separator=False),
    "fixed, two separators": Layout(FixedRule(3), (253, 252), predict_separator=False),
}
TEXT = st.text(st.sampled_from("ab .\né日😀"), max_size=20)


class Reciter(nn.Module):
    """Says a text as a layout has it and keeps what it reads. It would rather say BOS, a separator that is not to be
    predicted, and nonsense where it is not asked."""

    def __init__(self, layout: Layout, expected: LaidOut) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=256, is_causal=True, objective=SimpleNamespace(type="masked_words"))
        self.weight = nn.Parameter(torch.zeros(1))
        self.expected, self._layout = expected, layout
        self.ids: list[int] = []
        self.marks: list[int] = []

    def layout(self) -> Layout:
        return self._layout

    def new_cache(self, num_rows: int) -> None:
        assert num_rows == 1

    def prefill(self, input_ids: Tensor, cu_seqlens: Tensor, cache: None, marks: Tensor | None) -> SimpleNamespace:
        assert cu_seqlens.tolist() == [0, len(input_ids)]
        return SimpleNamespace(logits=self.step(input_ids, cache, marks=marks)[0])

    def step(self, ids: Tensor, cache: None, *, marks: Tensor | None) -> tuple[Tensor, list[Any]]:
        assert marks is not None and marks.dtype == torch.uint8 and marks.shape == ids.shape
        self.ids += ids.tolist()
        self.marks += marks.tolist()
        label = int(self.expected.labels[len(self.ids) - 1])
        logits = torch.zeros(1, 256)
        logits[0, max(label, 0)] = 9
        logits[0, [254, *self._layout.never_sampled]] = 20
        return logits, []


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@settings(max_examples=60, deadline=None)
@given(prompt=TEXT, continuation=TEXT)
def test_a_model_reads_the_layout_of_what_it_says(layout: Layout, prompt: str, continuation: str) -> None:
    ids = np.array([254, *(prompt + continuation).encode(), 255], dtype=np.int64)
    expected = layout.lay_out(ids)
    model = Reciter(layout, expected)
    assert "".join(stream(model, prompt, temperature=0)) == continuation  # type: ignore[arg-type]
    assert expected.marks is not None
    assert model.ids == expected.ids[:-1].tolist()
    assert model.marks == expected.marks[:-1].tolist()


@pytest.mark.parametrize("num_bytes", [1, 4, 9])
def test_separators_are_not_counted_as_bytes(num_bytes: int) -> None:
    layout = LAYOUTS["words, three separators"]
    ids = np.array([254, *b"It was a day", 255], dtype=np.int64)
    model = Reciter(layout, layout.lay_out(ids))
    assert generate(model, ["It"], max_bytes=num_bytes, temperature=0) == [" was a day"[:num_bytes]]  # type: ignore[arg-type]


class Stutterer(Reciter):
    """Ends a chunk wherever it may."""

    def step(self, ids: Tensor, cache: None, *, marks: Tensor | None) -> tuple[Tensor, list[Any]]:
        self.ids += ids.tolist()
        logits = torch.zeros(1, 256)
        logits[0, 97], logits[0, 253] = 1, 2
        return logits, []


def test_a_chunk_has_something_in_it() -> None:
    layout = LAYOUTS["words, three separators"]
    model = Stutterer(layout, layout.lay_out(np.array([254], dtype=np.int64)))
    assert generate(model, [""], max_bytes=2, temperature=0) == ["aa"]  # type: ignore[arg-type]
    assert model.ids == [253, 252, 251, 254, 253, 252, 251, 97, 253, 252, 251]


def test_a_model_that_sees_later_units_cannot_generate() -> None:
    layout = LAYOUTS["words"]
    model = Reciter(layout, layout.lay_out(np.array([254], dtype=np.int64)))
    model.config.is_causal = False
    with pytest.raises(ConfigError, match="cannot continue a text"):
        generate(model, ["a"])  # type: ignore[arg-type]


def test_a_prompt_with_a_separator_is_refused() -> None:
    layout = LAYOUTS["words, separated"]
    model = Reciter(layout, layout.lay_out(np.array([254], dtype=np.int64)))
    with pytest.raises(DataError, match="byte 253"):
        stream(model, b"a\xfdb")  # type: ignore[arg-type]


MODELS: dict[str, dict[str, Any]] = {
    "space-like": {"boundary": {"type": "space_like"}},
    "words": {
        "boundary": {"type": "words"},
        "pool": {"type": "cross_attention", "query": "learned", "num_heads": 2},
        "unpool": {"type": "cross_attention", "num_heads": 2},
    },
    "words, separated": {"boundary": {"type": "words", "separators": 2}},
    "fixed, separated": {"boundary": {"type": "fixed", "stride": 3, "separators": 1}},
}


@pytest.mark.parametrize("parts", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("prompt", ["", "It was", "日本"])
def test_greedy_generation_is_the_argmax_of_full_forwards(parts: dict[str, Any], prompt: str) -> None:
    attention = {"num_heads": 2, "rotary_dim": 8}
    outer = {"d_model": 32, "encoder": "m1T1", "decoder": "t1", "attention": attention, "ssm": {"head_dim": 16}} | parts
    torch.manual_seed(4)
    model = hnet.build({"stages": [outer, {"d_model": 48, "main": "T1", "attention": attention}]}).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    layout = model.layout()
    prompt_ids = ByteTokenizer().encode(prompt, bos=True)
    ids = layout.lay_out(np.array(prompt_ids, dtype=np.int64)).ids.tolist()
    with torch.no_grad():
        model.head.weight[253] = 1.01 * model.head.weight[model(torch.tensor(ids)).logits[-1].argmax()]
    found = stream_ids(model, prompt_ids, Sampler(temperature=0, top_p=1, seed=0), bos=254, eos=255)
    num_separators = 0
    for unit in islice(found, 25):
        while True:
            tracker = layout.tracker()
            for read in ids:
                tracker.push(read)
            chosen = tracker.forced()
            if chosen is None:
                logits = model(torch.tensor(ids)).logits[-1]
                logits[[254, *tracker.excluded()]] = float("-inf")
                chosen = int(logits.argmax())
            ids.append(chosen)
            if chosen not in layout.separators:
                break
            num_separators += 1
        assert chosen == unit
    assert bool(num_separators) == bool(layout.separators)
