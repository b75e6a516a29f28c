"""The six released H-Nets: sizes of the real modules, built on the meta device, against the published figures."""

import pytest
import torch

from hnet.model.accounting import count_parameters
from hnet.model.loading import build
from hnet.model.parameter_groups import lr_multipliers

RELEASED = {
    # name: (parameters, tensors in the official state dict, learning-rate factors to three decimals)
    "hnet_1stage_L": (679_405_312, 214, (2.627, 0.876)),
    "hnet_1stage_XL": (1_270_833_920, 226, (3.033, 0.876)),
    "hnet_2stage_L": (874_315_264, 328, (2.627, 1.517, 0.715)),
    "hnet_2stage_XL": (1_603_492_224, 335, (3.033, 1.430, 0.715)),
    "hnet_2stage_XL_chinese": (1_755_285_888, 353, (3.033, 1.430, 0.715)),
    "hnet_2stage_XL_code": (1_654_090_112, 341, (3.033, 1.430, 0.715)),
}


@pytest.mark.parametrize("name", RELEASED)
def test_size_and_multipliers(name: str) -> None:
    parameters, tensors, multipliers = RELEASED[name]
    model = build(name, device="meta")
    assert all(parameter.device.type == "meta" for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert count_parameters(model.config) == parameters
    assert len(model.state_dict()) == tensors
    assert lr_multipliers(model.config) == pytest.approx(multipliers, abs=5e-4)


def test_bf16_model_keeps_its_float32_islands() -> None:
    model = build("hnet_2stage_XL", device="meta", dtype=torch.bfloat16)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    islands = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert set(dtypes.values()) == {torch.bfloat16, torch.float32}
    assert {name.rsplit(".", 2)[-2] for name in islands if "residual" in name} == {"residual"}
    kinds = {name.rsplit(".", 1)[-1] for name in islands if "residual" not in name}
    assert kinds == {"A_log", "D", "dt_bias"}
