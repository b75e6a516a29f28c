import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import hnet
from hnet.config import load_config
from hnet.model.accounting import (
    activation_breakdown,
    activation_bytes,
    count_lookup_and_linear_weights,
    count_parameters,
    flops_per_byte,
    mean_keys,
    parameter_breakdown,
    parameter_sizes,
    stage_flops,
    training_bytes,
)
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.training.mixed_precision import HalfEmbedding, HalfLinear, compute_in_bf16


def released(layout: list[str], d_model: list[int], d_intermediate: list[int], rotary: list[int]) -> ModelConfig:
    """A released H-Net: `layout` is the encoders, the main stack, then the decoders from the inside out."""
    num = len(d_model)
    stages = []
    for index in range(num):
        stage = {
            "d_model": d_model[index],
            "d_intermediate": d_intermediate[index],
            "attention": {"num_heads": 16, "rotary_dim": rotary[index], "window": -1 if index == num - 1 else 1023},
        }
        if index == num - 1:
            stage["main"] = layout[index]
        else:
            stage |= {"encoder": layout[index], "decoder": layout[-1 - index]}
        stages.append(stage)
    return ModelConfig.model_validate({"stages": stages})


def one_stage(main: str, width: int, mlp: int, rotary: int) -> ModelConfig:
    return released(["m4", main, "m4"], [1024, width], [0, mlp], [32, rotary])


def two_stage(main: str, widths: list[int], mlp: list[int], rotary: list[int]) -> ModelConfig:
    return released(["m4", "T1m4", main, "m4T1", "m4"], [1024, *widths], [0, *mlp], [32, *rotary])


XL = ([1536, 2048], [4096, 5504], [48, 64])
RELEASED = {
    "1stage_L": (one_stage("T22", 1536, 4096, 48), 679_405_312),
    "1stage_XL": (one_stage("T24", 2048, 5504, 64), 1_270_833_920),
    "2stage_L": (two_stage("T26", [1024, 1536], [2816, 4096], [32, 48]), 874_315_264),
    "2stage_XL": (two_stage("T27", *XL), 1_603_492_224),
    "2stage_XL_chinese": (two_stage("T30", *XL), 1_755_285_888),
    "2stage_XL_code": (two_stage("T28", *XL), 1_654_090_112),
}


@pytest.mark.parametrize("name", RELEASED)
def test_parameters_of_released_models(name: str) -> None:
    config, expected = RELEASED[name]
    assert count_parameters(config) == expected
    assert sum(parameter_breakdown(config).values()) == expected


def test_tied_head_is_counted_once() -> None:
    config = RELEASED["1stage_L"][0]
    tied = config.model_copy(update={"tie_embeddings": True})
    assert count_parameters(config) - count_parameters(tied) == 256 * 1024


@pytest.mark.parametrize(("name", "bytes_per_chunk", "paper"), [("1stage_L", 4.8, 0.43), ("1stage_XL", 4.7, 0.72)])
def test_flops_of_the_paper(name: str, bytes_per_chunk: float, paper: float) -> None:
    """H-Net paper, table of results: forward GFLOPs per byte at a context of 8192 bytes."""
    config = RELEASED[name][0]
    gigaflops = flops_per_byte(config, [1, 1 / bytes_per_chunk], 8192, causal=False) / 1e9
    assert round(gigaflops, 2) == pytest.approx(paper, abs=0.011)
    assert flops_per_byte(config, [1, 1 / bytes_per_chunk], 8192) < gigaflops * 1e9


def test_flops_of_a_flat_transformer_by_hand() -> None:
    config = ModelConfig.model_validate(
        {
            "vocab_size": 300,
            "stages": [{"d_model": 64, "d_intermediate": 128, "main": "T2", "attention": {"num_heads": 4}}],
        }
    )
    projections = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    scores_and_values = 2 * 2 * 64 * (1 + 2 + 3 + 4 + 5) / 5
    assert flops_per_byte(config, [1], 5) == pytest.approx(2 * (projections + scores_and_values) + 2 * 300 * 64)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
@pytest.mark.parametrize("window", [-1, 0, 3, 100])
def test_mean_keys_counts_pairs(length: int, window: int) -> None:
    limit = length if window < 0 else window + 1
    pairs = sum(min(position + 1, limit) for position in range(length))
    assert mean_keys(length, window) == pytest.approx(pairs / length)


def test_unit_counts_are_checked() -> None:
    config = RELEASED["1stage_L"][0]
    with pytest.raises(ValueError, match="1 unit counts given for 2 stages"):
        flops_per_byte(config, [1], 8192)
    with pytest.raises(ValueError, match="not be negative"):
        flops_per_byte(config, [1, -0.1], 8192)


def test_flops_of_many_windows_at_once() -> None:
    config = RELEASED["2stage_L"][0]
    units, context = np.array([[8192, 3000, 1200], [4096, 1024, 512]]), np.array([8192.0, 700.0])
    flops = stage_flops(config, units, context)
    assert flops.shape == (2, 3)
    for row, counts, length in zip(flops, units, context, strict=True):
        alone = flops_per_byte(config, (counts / counts[0]).tolist(), length)
        assert row.sum() / counts[0] == pytest.approx(alone)
    doubled = stage_flops(config, units * [1, 1, 2], context)
    assert (doubled[:, :2] == flops[:, :2]).all() and (doubled[:, 2] > 2 * flops[:, 2]).all()


def test_imports_no_torch() -> None:
    code = "import sys, hnet.model.accounting; sys.exit('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


@pytest.mark.parametrize(
    "name", ["hnet_tiny", "hnet_small", "hnet_2stage_small", "byte_transformer_small", "byte_mamba_small"]
)
def test_parameters_of_built_models(name: str) -> None:
    model = hnet.build(name, device="meta")
    assert count_parameters(model.config) == sum(parameter.numel() for parameter in model.parameters())
    sizes = parameter_sizes(model.config)
    assert sorted(itertools.chain(*sizes.values())) == sorted(parameter.numel() for parameter in model.parameters())
    stack = "main" if len(model.config.stages) == 1 else "encoder"
    first = [numbers for part, numbers in sizes.items() if part.startswith(f"stages.0.{stack}")]
    assert list(itertools.chain(*first)) == [weight.numel() for weight in getattr(model.stage, stack).parameters()]
    parts = parameter_breakdown(model.config)
    assert parts["embedding"] == model.embedding.weight.numel()
    if "stages.0.router" in parts:
        assert parts["stages.0.router"] == sum(parameter.numel() for parameter in model.stage.router.parameters())
        assert parts["stages.0.decoder"] == sum(parameter.numel() for parameter in model.stage.decoder.parameters())


def peak_allocated(model: LanguageModel, units: int) -> tuple[int, list[int]]:
    """Most bytes that PyTorch allocates in a forward and backward pass, and the units of every stage."""
    ids = torch.randint(0, 256, (units,), generator=torch.Generator().manual_seed(0))
    cu_seqlens = torch.tensor([0, units // 4, units // 2, units], dtype=torch.int32)
    losses = model.loss(ids, cu_seqlens=cu_seqlens)
    losses.total.backward()
    num_units = [units, *(stage.num_chunks for stage in losses.output.stages)]
    del losses
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = model.loss(ids, cu_seqlens=cu_seqlens).total
        loss.backward()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(changes)), num_units


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("name", "ratio"), [("hnet_small", 6.0), ("hnet_2stage_small", 3.0), ("byte_transformer_small", None)]
)
def test_activations_of_built_models(name: str, ratio: float | None, checkpointing: bool) -> None:
    model = hnet.build(name)
    model.set_activation_checkpointing(checkpointing)
    model.force_bytes_per_chunk(ratio)
    measured, num_units = peak_allocated(model, 2048)
    predicted = activation_bytes(model.config, num_units, activation_checkpointing=checkpointing)
    assert measured < 1.15 * predicted
    assert measured > 0.85 * predicted


def test_activations_are_linear_in_bytes() -> None:
    config = RELEASED["2stage_L"][0]
    one = activation_bytes(config, [8192, 2048, 1024])
    assert activation_bytes(config, [8 * 8192, 8 * 2048, 8 * 1024]) == pytest.approx(8 * one, rel=1e-9)
    parts = activation_breakdown(config, [8192, 2048, 1024])
    assert sum(parts.values()) == one
    assert list(parts) == ["stages.0", "stages.1", "stages.2", "logits", "temporary"]
    assert activation_bytes(config, [8192, 2048, 1024], dtype_bytes=2) < one
    assert activation_bytes(config, [8192, 2048, 1024], activation_checkpointing=True) < one / 3
    assert training_bytes(config, [8192, 2048, 1024]) == 16 * count_parameters(config) + one
    with pytest.raises(ValueError, match="3 stages"):
        activation_bytes(config, [8192])


@pytest.mark.parametrize("name", ["hnet_2stage_small", "byte_transformer_small", "byte_mamba_small", "hnet_1stage_L"])
def test_weights_that_are_used_in_bf16_alone(name: str) -> None:
    config = load_config(ModelConfig, name)
    model = LanguageModel(config, device=torch.device("meta"))
    compute_in_bf16(model)
    weights = {module.weight for module in model.modules() if isinstance(module, (HalfLinear, HalfEmbedding))}
    assert count_lookup_and_linear_weights(config) == sum(weight.numel() for weight in weights)
