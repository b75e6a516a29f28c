"""A model whose boundaries are known: stage 0 cuts at spaces, stage 1 at every third chunk."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from hnet.model.config import ModelConfig
from hnet.segmentation.layout import PLAIN, Layout


def config(num_stages: int) -> ModelConfig:
    outer = {"d_model": 8, "encoder": "", "decoder": ""}
    inner = {"d_model": 8, "main": ""}
    return ModelConfig.model_validate({"stages": [outer] * (num_stages - 1) + [inner]})


class RuleModel(nn.Module):
    """Reads one document; BOS and spaces (or the bytes in `cut_before`) start chunks, with probability 0.9."""

    def __init__(self, num_stages: int = 3, cut_before: bytes = b" ") -> None:
        super().__init__()
        self.config = config(num_stages)
        self.cut_before = cut_before
        self.weight = nn.Parameter(torch.zeros(1))
        self.lengths: list[int] = []

    def layout(self) -> Layout:
        return PLAIN

    def forward(self, input_ids: Tensor, *, cu_seqlens: Tensor, marks: Tensor | None) -> SimpleNamespace:
        assert cu_seqlens.tolist() == [0, len(input_ids)]
        assert input_ids[0] == 254
        self.lengths.append(len(input_ids))
        mask = torch.tensor([unit in (254, *self.cut_before) for unit in input_ids.tolist()])
        stages = []
        for _ in self.config.stages[:-1]:
            stages.append(SimpleNamespace(boundary_prob=torch.where(mask, 0.9, 0.2), boundary_mask=mask))
            mask = torch.arange(int(mask.sum())) % 3 == 0
        return SimpleNamespace(stages=stages)


@pytest.fixture
def rule_model() -> RuleModel:
    return RuleModel()
