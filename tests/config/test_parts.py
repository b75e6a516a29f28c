"""Errors in the parts of a model: which type, which key, and which parts do not go together."""

import pytest

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["stages.0.boundary.type=wrods"],
            "hnet_tiny.yaml:7: stages.0.boundary: type 'wrods' is not known; give one of router, fixed",
        ),
        (
            ["stages.0.boundary={type: fixed, max_bytes: 3}"],
            "unknown key 'max_bytes' under stages.0.boundary",
        ),
        (
            ["stages.0.boundary={type: fixed, stride: 0}"],
            "stages.0.boundary.stride: got 0 (an integer); allowed: an integer of at least 1",
        ),
        (
            ["stages.0.boundary={type: words}"],
            "stages[0]: boundary words is known up to 3 units after a chunk's first, and pool select gives",
        ),
        (["stages.0.decoder_mask=bidirectional"], "decoder_mask: Mamba-2 layers see earlier units alone"),
    ],
)
def test_errors_name_the_part(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(ModelConfig, "hnet_tiny", overrides)
    assert expected in str(caught.value)


def test_a_part_is_saved_and_read_with_its_own_keys() -> None:
    config = load_config(ModelConfig, "hnet_tiny", ["stages.0.boundary={type: fixed, stride: 7}"])
    assert config.stages[0].boundary.units_per_chunk == 7
    assert load_config(ModelConfig, config.model_dump(mode="json")) == config
