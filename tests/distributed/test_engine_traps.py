"""What DeepSpeed and Accelerate would get wrong in silence, shown not to happen. Clipping left out, the optimizer's
groups and ranks' places are tested beside (`test_deepspeed_settings.py`, `test_engine_state.py`)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from unequal import batch, deepspeed_file, make_config, start, train, weights, whole_state, windows

from hnet.model.blocks.mamba2 import Mamba2
from hnet.model.language_model import LanguageModel
from hnet.model.residual import Residual
from hnet.testing.ranks import run_distributed
from hnet.training.mixed_precision import HalfLinear

BF16 = "training.precision=bf16"
FEELS_SCALE = ("optimizer.eps=1.0", "optimizer.learning_rate=0.1")
"""With its usual eps AdamW does not feel the scale of gradients, and so no clipping either."""
ENGINES: dict[str, dict[str, Any]] = {
    "data parallel": {},
    "ZeRO 0": {"zero_stage": 0},
    "ZeRO 1": {"zero_stage": 1},
    "ZeRO 2": {"zero_stage": 2},
    "FSDP2": {"fsdp": True},
}


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {**ENGINES, "ZeRO 3": deepspeed_file(tmp_path)}


def called_modules(model: LanguageModel, documents: list[list[int]]) -> list[str]:
    """Names in the order in which the forward and then the backward pass reach the modules."""
    names: list[str] = []
    hooks: list[Any] = []

    def note(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        return lambda *_: names.append(name), lambda *_: names.append(f"{name} backward")

    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            forward, backward = note(name)
            hooks.append(module.register_forward_hook(forward))
            hooks += [parameter.register_hook(backward) for parameter in module.parameters(recurse=False)]
    pack = batch(documents)
    model.loss(pack.input_ids, pack.cu_seqlens).total.backward()
    for hook in hooks:
        hook.remove()
    return names


def test_modules_are_called_in_one_order_whatever_the_chunks() -> None:
    """Stages 1 and 2 are wrong in silence, and stage 3 hangs, where ranks differ in this."""
    config = make_config({})
    model = LanguageModel(config.model)
    named = weights(config)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(named[f"weight/{name}"])
    packs = [*windows(1), [[7]], [[7]] * 3]
    orders = [called_modules(model, documents) for documents in packs]
    chunks = [model(batch(pack).input_ids, cu_seqlens=batch(pack).cu_seqlens).stages[0].num_chunks for pack in packs]
    assert (chunks[0], chunks[2], chunks[4]) == (48, 2, 1)
    assert len({name for name in orders[0] if not name.endswith("backward")}) > 20
    assert all(order == orders[0] for order in orders)


def first_steps(rank: int, engines: dict[str, dict[str, Any]], *overrides: str) -> dict[str, list[float]]:
    """Losses and norms of four steps. In bf16, parameters are fp32 in every layer's call all the same."""
    result = {}
    for name, settings in engines.items():
        config = make_config(settings, *overrides)
        engine = start(config)
        untouched = {fragment.tensor: fragment for fragment in engine.fragments()}
        given = weights(config)
        for tensor, fragment in untouched.items():
            begin, size = fragment.start, fragment.values.numel()
            assert torch.equal(fragment.values, given[tensor].flatten()[begin : begin + size]), tensor
        dtypes = record_dtypes(engine.model)
        results, _ = train(config, engine, range(1, 5))
        if BF16 in overrides:
            assert dtypes.pop("HalfLinear out") == torch.bfloat16
            assert dtypes.keys() == {"Mamba2", "Residual", "HalfLinear", "probability", "probability sum"}
            assert set(dtypes.values()) == {torch.float32}
        result[name] = [number for step in results for number in (step.loss, step.grad_norm)]
    return result


def record_dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    """Filled while the model runs: of parameters as the layers see them, and of what islands give."""
    dtypes: dict[str, torch.dtype] = {}

    def note_parameters(module: nn.Module, _: Any) -> None:
        own = {parameter.dtype for parameter in module.parameters(recurse=False)}
        assert len(own) == 1 and all(parameter.numel() for parameter in module.parameters(recurse=False))
        dtypes[next(kind.__name__ for kind in (Mamba2, Residual, HalfLinear) if isinstance(module, kind))] = own.pop()

    def note_product(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        dtypes["HalfLinear out"] = output.dtype

    def note_router(module: nn.Module, _: Any, output: Any) -> None:
        dtypes["probability"], dtypes["probability sum"] = output.prob.dtype, output.prob_sum.dtype

    for name, module in model.named_modules():
        if isinstance(module, (Mamba2, Residual, HalfLinear)):
            module.register_forward_pre_hook(note_parameters)
        if isinstance(module, HalfLinear):
            module.register_forward_hook(note_product)
        elif name.endswith("router"):
            module.register_forward_hook(note_router)
    return dtypes


def test_bf16_takes_no_step_of_its_own_keeps_islands_and_agrees_over_ranks(engines: dict[str, Any]) -> None:
    """DeepSpeed's own bf16 at stage 0 takes a step at start-up, and rounds every parameter. The tolerance is a quarter
    of a bf16 digit: sums in another order round otherwise."""
    alone = first_steps(0, {"alone": {}}, BF16)["alone"]
    for several in run_distributed(first_steps, 2, engines, BF16, timeout=300):
        for name, numbers in several.items():
            torch.testing.assert_close(numbers, alone, atol=0, rtol=2e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("max_norm", ["0", "0.2"])
def test_clipping_is_what_the_run_says(engines: dict[str, Any], max_norm: str) -> None:
    """DeepSpeed clips at 1.0 where it is not told."""
    clip = f"optimizer.gradient_clip={max_norm}"
    alone = first_steps(0, {"alone": {}}, clip, *FEELS_SCALE)["alone"]
    otherwise = first_steps(0, {"alone": {}}, "optimizer.gradient_clip=1.0", *FEELS_SCALE)["alone"]
    assert max(abs(one - other) for one, other in zip(alone, otherwise, strict=True)) > 1e-2
    for several in run_distributed(first_steps, 2, engines, clip, *FEELS_SCALE, timeout=300):
        for name, numbers in several.items():
            torch.testing.assert_close(numbers, alone, atol=0, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def gathered(rank: int, settings: dict[str, Any], in_bf16: bool) -> dict[str, Any]:
    """Two steps in bf16; what their gathers carried."""
    from deepspeed.runtime.zero import partition_parameters

    config = make_config(settings, BF16)
    engine = start(config)
    if not in_bf16:
        for parameter in engine.model.parameters():
            parameter.__dict__.pop("comm_dtype", None)
    gather, num_bytes = partition_parameters._dist_allgather_fn, 0

    def counting_gather(own: torch.Tensor, whole: torch.Tensor, group: Any = None) -> Any:
        nonlocal num_bytes
        num_bytes += own.nbytes
        return gather(own, whole, group)

    partition_parameters._dist_allgather_fn = counting_gather
    results, _ = train(config, engine, [1, 2])
    return {"losses": [step.loss for step in results], "state": whole_state(engine), "bytes": num_bytes}


def test_gathering_in_bf16_what_is_used_in_bf16_changes_no_bit(tmp_path: Path) -> None:
    (wide, _), (half, _) = (
        run_distributed(gathered, 2, deepspeed_file(tmp_path), in_bf16) for in_bf16 in (False, True)
    )
    assert half["losses"] == wide["losses"]
    assert all(torch.equal(half["state"][name], values) for name, values in wide["state"].items())
    assert half["bytes"] < 0.6 * wide["bytes"]
