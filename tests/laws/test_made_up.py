"""An architecture that nobody has: a boundary and a pool in two new files and a line in the registry for each."""

from pathlib import Path

import pytest
import torch

import hnet
from hnet.config import load_config
from hnet.model.accounting import count_parameters, flops_per_byte
from hnet.model.config.part import BoundaryConfig, PoolConfig
from hnet.model.config.registry import BOUNDARIES, POOLS, Part
from hnet.testing.laws import (
    check_later_units_change_nothing,
    check_packed_is_alone,
    check_steps_are_the_whole,
    random_documents,
)
from hnet.testing.strategies import random_model
from hnet.training.config import RunConfig
from hnet.training.loop import train

TEXT = "the old king of the north rode out at dawn and came to a river.\n"

BOUNDARY = '''
from typing import ClassVar, Literal

from torch import nn
import torch

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.config.part import BoundaryConfig


class TurnConfig(BoundaryConfig):
    """A chunk begins where the mean of a unit's channels changes its sign."""

    reads_encoder: ClassVar[bool] = True
    type: Literal["turn"] = "turn"

    @property
    def units_per_chunk(self):
        return 2.0


class Turn(nn.Module):
    def __init__(self, sizes, config, *, device=None):
        super().__init__()

    def forward(self, x, cache=None):
        sign = x.values.mean(1) > 0
        mask = sign != sign.roll(1)
        if cache is not None:
            kept, rows = x.kept()
            cache.write("sign", sign[x.cu_seqlens[1:].long()[kept] - 1], rows)
        return Boundaries.given(mask.index_fill(0, x.cu_seqlens[:-1].long(), True))

    def step(self, x, cache, rows, is_first, marks=None):
        sign = x.mean(1) > 0
        before = cache.read("sign", rows, sign)
        cache.write("sign", sign, rows)
        return Boundaries.given(is_first | (sign != before))
'''

POOL = '''
from typing import Literal

import torch
from torch import nn

from hnet.model.config.part import PoolConfig, Weight
from hnet_kernels import segment_reduce


class EnergyConfig(PoolConfig):
    """Root of the mean square of a chunk's units, with a learned factor for each channel."""

    type: Literal["energy"] = "energy"

    def chunk_width(self, width, inner_width):
        return width

    def weights(self, sizes):
        return [Weight(sizes.width, is_linear=False)]


class Energy(nn.Module):
    def __init__(self, sizes, config, *, device=None):
        super().__init__()
        self.factor = nn.Parameter(torch.empty(sizes.width, device=device))

    def initialize(self, fill):
        fill(self.factor, nn.init.ones_)

    def forward(self, x, firsts, chunk_map):
        return self.factor * (segment_reduce(x.values.square(), chunk_map.offsets, "mean") + 1e-6).sqrt()
'''

MODEL = {
    "stages": [
        {
            "d_model": 16,
            "encoder": "m1",
            "decoder": "T1",
            "ssm": {"d_state": 4, "head_dim": 8},
            "attention": {"num_heads": 2, "rotary_dim": 4, "window": 7},
            "boundary": {"type": "turn"},
            "pool": {"type": "energy"},
            "unpool": {"type": "repeat"},
        },
        {"d_model": 32, "main": "T1", "attention": {"num_heads": 2, "rotary_dim": 4}},
    ]
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """The two files, the two lines of the registry, and a run of a few steps."""
    (tmp_path / "made_up_boundary.py").write_text(BOUNDARY)
    (tmp_path / "made_up_pool.py").write_text(POOL)
    monkeypatch.syspath_prepend(tmp_path)
    import made_up_boundary
    import made_up_pool

    assert issubclass(made_up_boundary.TurnConfig, BoundaryConfig) and issubclass(made_up_pool.EnergyConfig, PoolConfig)
    monkeypatch.setitem(BOUNDARIES, "turn", Part(made_up_boundary.TurnConfig, "made_up_boundary:Turn"))
    monkeypatch.setitem(POOLS, "energy", Part(made_up_pool.EnergyConfig, "made_up_pool:Energy"))
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 80)
    tree = {
        "output_dir": str(tmp_path / "run"),
        "model": MODEL,
        "data": {"train": str(text), "sequence_length": 128},
        "training": {"steps": 30, "global_batch_bytes": 512, "peak_flops": 1e10},
        "optimizer": {"learning_rate": 5e-3},
        "logging": {"progress": False},
    }
    return load_config(RunConfig, tree)


def test_a_made_up_architecture_needs_no_other_edit(run: RunConfig) -> None:
    config = run.model
    model, pack = random_model(config, 0), random_documents(config, 0)
    check_packed_is_alone(model, pack)
    check_steps_are_the_whole(model, pack, 0)
    check_later_units_change_nothing(model, pack, 0)
    assert model(pack.ids, pack.cu_seqlens).stages[0].num_chunks > 4
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    assert flops_per_byte(config, [1.0, 0.5], 128.0) > 1e4

    train(run)
    loaded = hnet.load(run.output_dir)
    assert loaded.config == config
    assert loaded.stage.pool.factor.detach().std() > 0, "it was trained"
    assert float(loaded.loss(torch.tensor(list(TEXT.encode()))).bits_per_byte) < 4
    assert hnet.generate(loaded, ["the old "], max_bytes=12, temperature=0)[0].isascii()


def test_the_stage_stays_small() -> None:
    import hnet.model.stage

    assert len(Path(hnet.model.stage.__file__).read_text().splitlines()) < 300
