"""Initialisation, half precision and flat models."""

import math

import pytest
import torch

from hnet.model.config import ModelConfig
from hnet.model.initialization import initialize
from hnet.model.language_model import LanguageModel
from hnet.testing.strategies import random_pack

TWO_STAGES = ModelConfig.model_validate(
    {
        "stages": [
            {"d_model": 64, "encoder": "m2", "decoder": "m1t1", "attention": {"num_heads": 2}, "ssm": {"d_state": 16}},
            {"d_model": 96, "main": "T3", "attention": {"num_heads": 4, "rotary_dim": 8}},
        ]
    }
)


def test_initialisation_follows_the_official_rules() -> None:
    model = LanguageModel(TWO_STAGES, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    initialize(model, seed=3)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    assert all(torch.isfinite(parameter).all() for parameter in weights.values())
    assert float(weights["embedding.weight"].std()) == pytest.approx(1.0, rel=0.03)
    assert float(weights["head.weight"].std()) == pytest.approx(0.02, rel=0.03)
    assert float(weights["stage.encoder.layers.0.mixer.in_proj.weight"].std()) == pytest.approx(0.02, rel=0.05)
    outer, inner = 4, 4 + 6
    out_proj = weights["stage.encoder.layers.0.mixer.out_proj.weight"]
    assert float(out_proj.std()) == pytest.approx(0.02 / math.sqrt(outer), rel=0.05)
    fc2 = weights["stage.inner.main.layers.0.mlp.fc2.weight"]
    assert float(fc2.std()) == pytest.approx(0.02 / math.sqrt(inner), rel=0.05)
    assert torch.equal(weights["stage.router.q_proj.weight"], torch.eye(64))
    assert not weights["stage.residual.weight"].any() and weights["stage.residual.bias"].any()
    assert not weights["stage.inner.width_pad"].any()
    a_log = weights["stage.encoder.layers.0.mixer.A_log"].exp()
    assert bool(((a_log >= 1) & (a_log <= 16)).all())
    step = torch.nn.functional.softplus(weights["stage.encoder.layers.0.mixer.dt_bias"])
    assert bool(((step >= 9.9e-5) & (step <= 0.101)).all())


def test_initialisation_depends_on_the_seed_alone() -> None:
    first, second = LanguageModel(TWO_STAGES), LanguageModel(TWO_STAGES)
    before = torch.random.get_rng_state()
    initialize(first, seed=1)
    initialize(second, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    initialize(second, seed=2)
    assert not torch.equal(first.embedding.weight, second.embedding.weight)


def test_bf16_stays_near_float32() -> None:
    torch.manual_seed(0)
    model = LanguageModel(TWO_STAGES).eval()
    ids, cu_seqlens = random_pack([70, 1, 30], 0)
    model.force_bytes_per_chunk(3.0)
    exact = model(ids, cu_seqlens).logits.detach()
    half = model.cast(torch.bfloat16)(ids, cu_seqlens).logits.detach()
    assert half.dtype == torch.bfloat16
    assert float((half.float() - exact).norm() / exact.norm()) < 0.05


@pytest.mark.parametrize("main", ["T2", "m2", "t1m1"])
def test_flat_models_are_one_stage(main: str) -> None:
    config = ModelConfig.model_validate(
        {
            "vocab_size": 500,
            "stages": [{"d_model": 32, "main": main, "attention": {"num_heads": 2}, "ssm": {"head_dim": 16}}],
        }
    )
    model = LanguageModel(config)
    ids, cu_seqlens = random_pack([9, 1, 4], 0)
    losses = model.loss(ids + 200, cu_seqlens)
    assert losses.output.logits.shape == (14, 500)
    assert losses.boundary == [] and losses.output.stages == []
    assert losses.cross_entropy.item() == pytest.approx(math.log(500), rel=0.05)
    torch.testing.assert_close(losses.total, losses.cross_entropy)
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_forced_chunks_have_the_wanted_length() -> None:
    model = LanguageModel(TWO_STAGES)
    model.force_bytes_per_chunk(6.0)
    ids, cu_seqlens = random_pack([3000, 3000], 0)
    assert model(ids, cu_seqlens).stages[0].bytes_per_chunk == pytest.approx(6.0, rel=0.1)
