"""The six released models have exactly the parameters of the official ones."""

import pytest

import hnet
from hnet.config import load_config
from hnet.model.accounting import count_parameters
from hnet.model.config import ModelConfig

RELEASED = {
    "hnet_1stage_L": 679_405_312,
    "hnet_1stage_XL": 1_270_833_920,
    "hnet_2stage_L": 874_315_264,
    "hnet_2stage_XL": 1_603_492_224,
    "hnet_2stage_XL_chinese": 1_755_285_888,
    "hnet_2stage_XL_code": 1_654_090_112,
}


@pytest.mark.parametrize(("name", "num_parameters"), RELEASED.items())
def test_parameters_of_the_released_models(name: str, num_parameters: int) -> None:
    model = hnet.build(name, device="meta")
    parameters = list(model.parameters())
    assert all(parameter.is_meta for parameter in parameters)
    assert sum(parameter.numel() for parameter in parameters) == num_parameters
    assert count_parameters(load_config(ModelConfig, name)) == num_parameters
    ratios = [stage.boundary.ratio for stage in model.config.stages[:-1]]
    assert ratios == ([6.0] if "1stage" in name else [3.0, 3.0])


def test_small_models_stay_small() -> None:
    sizes = {
        "hnet_tiny": 0.3e6,
        "hnet_small": 5e6,
        "hnet_10m": 12e6,
        "hnet_2stage_small": 6e6,
        "byte_transformer_small": 5e6,
        "byte_mamba_small": 5e6,
        "bpe_transformer_small": 6e6,
        "hat_small": 5e6,
        "tfree_hat_small": 5e6,
        "etok_small": 5e6,
        "megabyte_small": 5e6,
    }
    for name, most in sizes.items():
        assert 0.1e6 < count_parameters(load_config(ModelConfig, name)) < most, name
