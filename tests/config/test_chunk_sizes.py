"""Parts that need separators, or chunks of one size, are refused without them."""

from typing import Any

import pytest

from hnet.config import load_config
from hnet.model.config import ModelConfig


def changed(name: str, **parts: Any) -> ModelConfig:
    """A configuration with other parts in its outermost stage."""
    config = load_config(ModelConfig, name).model_dump(mode="json")
    config["stages"][0] |= parts
    return ModelConfig.model_validate(config)


WORDS = {"type": "words", "separators": 1}
FIXED = {"type": "fixed", "stride": 8, "separators": 1}


@pytest.mark.parametrize(
    ("name", "parts", "message"),
    [
        ("hat_small", {"pool": {"type": "concat"}}, "pool concat needs chunks of a fixed number of units.*words"),
        ("hat_small", {"unpool": {"type": "slots"}}, "unpool slots needs chunks of a fixed number of units.*words"),
        ("etok_small", {"boundary": WORDS}, "4 vectors of a chunk.*as many separators.*words has 1"),
        ("hat_small", {"pool": {"type": "prefix", "num_units": 2}}, "2 vectors of a chunk.*words has 1"),
        ("megabyte_small", {"boundary": {"type": "fixed", "stride": 8}}, "known to be whole one unit earlier"),
        ("megabyte_small", {"pool": {"type": "prefix", "num_units": 2}}, "unpool slots takes one vector a chunk"),
    ],
)
def test_refused(name: str, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(name, **parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hat_small", {"boundary": FIXED}),
        ("hat_small", {"boundary": FIXED, "unpool": {"type": "slots"}}),
        ("megabyte_small", {"unpool": {"type": "prefix"}}),
        ("megabyte_small", {"boundary": {"type": "fixed", "stride": 8}, "decoder_mask": "causal"}),
    ],
)
def test_allowed(name: str, parts: dict[str, Any]) -> None:
    assert changed(name, **parts).stages[0].boundary.chunks_are_equal
