"""Laws 1 to 4 for 200 random combinations of all registered parts that the schema takes."""

import pytest
import torch
from torch import Tensor, nn

from hnet.model.accounting import count_parameters
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.testing.combinations import TextPack, random_combination, registered
from hnet.testing.laws import (
    check_later_units_change_nothing,
    check_packed_is_alone,
    check_steps_are_the_whole,
    one_of,
    outputs,
    random_documents,
)
from hnet.testing.strategies import random_model
from hnet.training.mixed_precision import compute_in_bf16

SEEDS = range(200)


def combination(seed: int) -> ModelConfig:
    """Every registered part is wanted in turn."""
    parts = registered()
    return random_combination(seed, parts[seed % len(parts)])


@pytest.mark.parametrize("seed", SEEDS)
def test_laws(seed: int) -> None:
    config = combination(seed)
    model, pack = random_model(config, seed), random_documents(config, seed)
    assert count_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
    check_packed_is_alone(model, pack)
    check_steps_are_the_whole(model, pack, seed)
    check_later_units_change_nothing(model, pack, seed)
    check_ranks_add_up(model, pack)


def check_ranks_add_up(model: LanguageModel, pack: TextPack) -> None:
    """Law 4, without ranks: documents dealt out have the gradients, in sum, of all together, and however unlike their
    chunks are, the same modules run in the same order, which ZeRO-3 needs to gather weights around them."""
    whole, called = gradients(model, pack)
    shares = [gradients(model, one_of(pack, *span)) for span in pack.spans]
    for name, gradient in whole.items():
        torch.testing.assert_close(sum(share[name] for share, _ in shares), gradient, atol=1e-8, rtol=1e-6)
    assert all(calls == called for _, calls in shares)


def gradients(model: LanguageModel, pack: TextPack) -> tuple[dict[str, Tensor], list[str]]:
    """Of a sum over units of logits and boundary probabilities; and the modules with parameters that ran, in order."""
    calls: list[str] = []

    def note(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_pre_hook(lambda *_: calls.append(name))

    holders = [(n, m) for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    hooks = [note(name, module) for name, module in holders]
    output = model(pack.ids, pack.cu_seqlens, marks=pack.marks)
    weight = torch.randn(output.logits.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = (output.logits.sin() * weight).sum() + sum(stage.boundaries.prob_sum for stage in output.stages)
    model.zero_grad()
    loss.backward()
    for hook in hooks:
        hook.remove()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient for {missing}"
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}, calls


def test_packs_of_the_laws_have_chunks_of_many_lengths() -> None:
    """The laws above would be empty on documents without chunks."""
    lengths = set()
    for seed in SEEDS[:20]:
        config = combination(seed)
        output = random_model(config, seed)(*_units(random_documents(config, seed)))
        starts = output.stages[0].boundary_mask.nonzero().squeeze(1)
        lengths |= set(starts.diff().tolist())
    assert {1, 2, 3, 5} <= lengths


def _units(pack: TextPack) -> tuple[Tensor, Tensor]:
    return pack.ids, pack.cu_seqlens


def test_outputs_depend_on_what_came_before() -> None:
    """What the laws compare is not a constant."""
    config = combination(0)
    model, pack = random_model(config, 0), random_documents(config, 0)
    start, end = pack.spans[-1]
    first = outputs(model, one_of(pack, start, end))[-1]
    assert not torch.allclose(first, outputs(model, one_of(pack, start + 4, end))[-1])


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_bf16_trains_and_continues(seed: int) -> None:
    """Training in bf16 has fp32 gradients and nearly the loss of fp32; a bf16 model can be continued."""
    config = combination(seed)
    pack = random_documents(config, seed)
    model = random_model(config, seed).float()
    expected = model.loss(pack.ids, pack.cu_seqlens, marks=pack.marks).total
    compute_in_bf16(model)
    loss = model.loss(pack.ids, pack.cu_seqlens, marks=pack.marks).total
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=0, rtol=0.1)
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    half, starts = random_model(config, seed).cast(torch.bfloat16), [start for start, _ in pack.spans]
    cache = half.new_cache(len(starts))
    marks = None if pack.marks is None else pack.marks[starts]
    half.prefill(pack.ids[starts], torch.arange(len(starts) + 1).int(), cache, marks)
    start, end = pack.spans[-1]
    rows = torch.tensor([len(starts) - 1])
    for unit in range(start + 1, end):
        marks = None if pack.marks is None else pack.marks[unit : unit + 1]
        logits, _ = half.step(pack.ids[unit : unit + 1], cache, rows, marks)
        assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
