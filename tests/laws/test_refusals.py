"""Combinations that the schema refuses, with the reason, and what they would break."""

import ast
import inspect
from typing import Any

import pytest

from hnet.model.config import ModelConfig, checks
from hnet.model.config import model as model_config
from hnet.testing.laws import (
    check_later_units_change_nothing,
    check_packed_is_alone,
    check_steps_are_the_whole,
    random_documents,
)
from hnet.testing.strategies import random_model

WORDS = {"type": "words"}
SEPARATED = {"type": "words", "separators": 1}
FIXED = {"type": "fixed", "stride": 3}
MEAN, REPEAT = {"type": "mean"}, {"type": "repeat"}
MASKED = {"type": "masked_words"}
RESET = {"decoder_mask": "chunk_causal"}
BOTH_WAYS = {"encoder_mask": "chunk_bidirectional", "start": "input", "residual": "identity"}
NO_UNITS = {"decoder": "", "residual": "identity", "final_norms": ["encoder"], "unpool": {"type": "none"}}


def tree(*outer: dict[str, Any], inner: int = 16, **top: Any) -> dict[str, Any]:
    """One stage around an innermost one for each of `outer`."""
    attention = {"num_heads": 2, "rotary_dim": 4, "window": 5}
    stages = [
        {"d_model": 16, "encoder": "T1", "decoder": "T1", "attention": attention, "unpool": REPEAT, **stage}
        for stage in outer
    ]
    main = {"d_model": inner, "main": "T1", "attention": attention, **top.pop("main", {})}
    return {"stages": [*stages, main], **top}


REFUSED: dict[str, dict[str, Any]] = {
    "main_mask: bidirectional shows later units": tree({}, main={"main_mask": "bidirectional"}),
    "which the outermost stage alone has": tree({}, {"boundary": WORDS, "pool": MEAN}),
    "the targets are units; give another objective": tree({"boundary": WORDS, "pool": MEAN, **NO_UNITS}),
    "the outermost stage gives units; give it unpool none": tree({"boundary": WORDS, "pool": MEAN}, objective=MASKED),
    "hides whole words, and boundary fixed": tree({"boundary": FIXED, "pool": MEAN, **NO_UNITS}, objective=MASKED),
    "only the outermost may": tree({}, NO_UNITS),
    "leaves no units to decode": tree({**NO_UNITS, "decoder": "T1"}, objective=MASKED),
    "needs chunks before the encoder": tree({"encoder_mask": "chunk_causal"}),
    "encoder_mask chunk_causal begins anew": tree({"boundary": WORDS, "pool": MEAN, "encoder_mask": "chunk_causal"}),
    "takes a chunk's first state when it opens": tree({"boundary": FIXED, **BOTH_WAYS}),
    "start: encoded hands the decoder states": tree({"boundary": FIXED, "pool": MEAN, **BOTH_WAYS, "start": "encoded"}),
    "shows later units of the chunk": tree({"boundary": FIXED, "pool": MEAN, "decoder_mask": "chunk_bidirectional"}),
    "give it separators": tree({"boundary": WORDS, "pool": MEAN, **RESET}),
    "to be whole one unit earlier": tree({"boundary": FIXED, "pool": MEAN, **RESET}),
    "gives a unit its own chunk": tree({"boundary": FIXED, "pool": MEAN, "unpool": {"type": "ema"}}),
    "gives a chunk's vector at its first": tree({"boundary": WORDS}),
    "reads how far into its chunk a unit is": tree({"boundary": WORDS, "pool": MEAN, "unpool": {"type": "prefix"}}),
    "chunks of a fixed number of units": tree({"boundary": SEPARATED, "pool": {"type": "concat"}}),
    "the places of as many separators": tree({"boundary": FIXED, "unpool": {"type": "prefix"}}),
    "takes chunks of the stage's d_model 16": tree(
        {"pool": {"type": "select", "widening": "linear"}, "unpool": {"type": "ema"}}, inner=32
    ),
    "only an innermost stage takes them": tree(
        {"boundary": SEPARATED, "pool": {"type": "prefix", "num_units": 2}}, {"boundary": FIXED}
    ),
    "takes one vector a chunk": tree({"boundary": SEPARATED, "pool": {"type": "prefix", "num_units": 2}}),
    "acts before the decoder's layers": tree({"decoder": "", "unpool": {"type": "cross_attention", "num_heads": 2}}),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refused(reason: str) -> None:
    with pytest.raises(ValueError, match=r"stages|objective") as refusal:
        ModelConfig.model_validate(REFUSED[reason])
    assert reason in str(refusal.value)


def test_every_refusal_of_the_schema_has_a_case() -> None:
    """Of every reason that `checks` can give, the words that are always the same."""
    given = []
    for case in REFUSED.values():
        with pytest.raises(ValueError, match="stages") as refusal:
            ModelConfig.model_validate(case)
        given.append(str(refusal.value))
    yields = [node.value for node in ast.walk(ast.parse(inspect.getsource(checks))) if isinstance(node, ast.Yield)]
    assert len(yields) > 15
    for node in yields:
        words = [str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)]
        assert any(max(words, key=len) in reason for reason in given), words


BROKEN = [
    "main_mask: bidirectional shows later units",
    "encoder_mask chunk_causal begins anew",
    "takes a chunk's first state when it opens",
    "start: encoded hands the decoder states",
    "shows later units of the chunk",
    "give it separators",
    "to be whole one unit earlier",
    "gives a unit its own chunk",
    "gives a chunk's vector at its first",
]


@pytest.mark.parametrize("reason", BROKEN)
def test_refused_for_good_reason(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check the model is built, and sees the future or cannot be continued unit by unit."""
    monkeypatch.setattr(model_config, "check_stages", lambda *_: None)
    case = REFUSED[reason]
    if "start: encoded" in reason:
        case = {**case, "stages": [{**case["stages"][0], "start": "encoded"}, case["stages"][1]]}
    config = ModelConfig.model_validate(case)
    broken = []
    for seed in range(3):
        model, pack = random_model(config, seed), random_documents(config, seed)
        check_packed_is_alone(model, pack)
        for check in (check_later_units_change_nothing, check_steps_are_the_whole):
            try:
                check(model, pack, seed)
            except (AssertionError, KeyError, IndexError, RuntimeError) as error:
                broken.append(f"{check.__name__}: {error}")
    assert broken, reason
