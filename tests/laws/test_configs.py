"""Laws 1 to 3 for every configuration that is shipped, in miniature."""

import pytest

from hnet.config import load_config
from hnet.config.library import config_names
from hnet.model.accounting import count_parameters
from hnet.model.config import ModelConfig
from hnet.testing.combinations import narrowed
from hnet.testing.laws import (
    check_later_units_change_nothing,
    check_packed_is_alone,
    check_steps_are_the_whole,
    random_documents,
)
from hnet.testing.strategies import random_model


def continuing() -> list[str]:
    """Names of the models that predict the next unit."""
    return [name for name in config_names("models") if load_config(ModelConfig, name).is_causal]


@pytest.mark.parametrize("name", continuing())
def test_laws(name: str) -> None:
    config = narrowed(load_config(ModelConfig, name))
    for seed in range(3):
        model, pack = random_model(config, seed), random_documents(config, seed)
        check_packed_is_alone(model, pack)
        check_steps_are_the_whole(model, pack, seed)
        check_later_units_change_nothing(model, pack, seed)


@pytest.mark.parametrize("name", continuing())
def test_miniatures_keep_their_parts(name: str) -> None:
    config = load_config(ModelConfig, name)
    small = narrowed(config)
    assert count_parameters(small) < 100_000 or small.vocab_size > 256
    for stage, narrow in zip(config.stages, small.stages, strict=True):
        for key in ("boundary", "pool", "unpool"):
            assert getattr(narrow, key).type == getattr(stage, key).type
        assert (narrow.start, narrow.residual, narrow.encoder_mask) == (stage.start, stage.residual, stage.encoder_mask)
