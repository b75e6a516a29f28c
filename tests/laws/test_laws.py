"""What holds for every configuration: packed = alone, cached = full, causality, save and load, batch forms."""

import tempfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from hnet.config import save_config
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.model.loading import load
from hnet.testing.strategies import lengths, model_configs, random_model, random_pack

CLOSE = {"atol": 1e-9, "rtol": 1e-7}
law = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
SEEDS = st.integers(0, 10_000)


@law
@given(model_configs(), lengths(), SEEDS)
def test_packed_equals_each_document_alone(config: ModelConfig, document_lengths: list[int], seed: int) -> None:
    model = random_model(config, seed)
    ids, cu_seqlens = random_pack(document_lengths, seed)
    packed = model(ids, cu_seqlens)
    ends = cu_seqlens.tolist()
    for index, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        alone = model(ids[start:end])
        torch.testing.assert_close(packed.logits[start:end], alone.logits, **CLOSE)
        for stage, stage_alone in zip(packed.stages, alone.stages, strict=True):
            first, last = stage.cu_seqlens[index], stage.cu_seqlens[index + 1]
            assert torch.equal(stage.boundary_mask[first:last], stage_alone.boundary_mask)
            assert stage.boundary_mask[first]


@law
@given(model_configs(), lengths(), SEEDS)
def test_prefill_and_steps_equal_full_forward(config: ModelConfig, document_lengths: list[int], seed: int) -> None:
    model = random_model(config, seed)
    ids, cu_seqlens = random_pack(document_lengths, seed)
    full = model(ids, cu_seqlens).logits
    starts = cu_seqlens[:-1].tolist()
    prefix = [1 + (seed + row) % length for row, length in enumerate(document_lengths)]
    taken = torch.cat([torch.arange(start, start + n) for start, n in zip(starts, prefix, strict=True)])
    cache = model.new_cache(len(document_lengths))
    prefilled = model.prefill(ids[taken], torch.tensor([0, *prefix]).cumsum(0).int(), cache).logits
    torch.testing.assert_close(prefilled, full[taken], **CLOSE)
    for offset in range(max(document_lengths)):
        rows = [r for r, length in enumerate(document_lengths) if prefix[r] + offset < length]
        if rows:
            index = torch.tensor([starts[r] + prefix[r] + offset for r in rows])
            logits, _ = model.step(ids[index], cache, torch.tensor(rows))
            torch.testing.assert_close(logits, full[index], **CLOSE)


@law
@given(model_configs(), lengths(), SEEDS, st.floats(0, 1, exclude_max=True))
def test_future_bytes_change_no_past_output(
    config: ModelConfig, document_lengths: list[int], seed: int, where: float
) -> None:
    model = random_model(config, seed)
    ids, cu_seqlens = random_pack(document_lengths, seed)
    cut = int(where * ids.numel())
    changed = ids.clone()
    changed[cut + 1 :] = (changed[cut + 1 :] + 101) % 256
    before, after = model(ids, cu_seqlens), model(changed, cu_seqlens)
    torch.testing.assert_close(before.logits[: cut + 1], after.logits[: cut + 1], **CLOSE)
    if before.stages:
        assert torch.equal(before.stages[0].boundary_mask[: cut + 1], after.stages[0].boundary_mask[: cut + 1])


@law
@given(model_configs(), SEEDS)
def test_save_and_load_give_the_same_logits(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed).float()
    ids, cu_seqlens = random_pack([7, 1, 12], seed)
    with tempfile.TemporaryDirectory() as folder:
        weights = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(weights, f"{folder}/model.safetensors")
        save_config(config, f"{folder}/config.yaml")
        loaded = load(folder)
    assert torch.equal(loaded(ids, cu_seqlens).logits, model(ids, cu_seqlens).logits)


@law
@given(model_configs(), lengths(), SEEDS, st.booleans())
def test_padding_changes_nothing(config: ModelConfig, document_lengths: list[int], seed: int, left: bool) -> None:
    model = random_model(config, seed)
    ids, cu_seqlens = random_pack(document_lengths, seed)
    longest = max(document_lengths) + 2
    padded, mask = (
        torch.zeros(len(document_lengths), longest).long(),
        torch.zeros(len(document_lengths), longest).long(),
    )
    for row, document in enumerate(ids.split(document_lengths)):
        place = slice(longest - len(document), None) if left else slice(0, len(document))
        padded[row, place], mask[row, place] = document, 1
    logits = model(padded, attention_mask=mask).logits
    torch.testing.assert_close(logits[mask.bool()], model(ids, cu_seqlens).logits, **CLOSE)
    assert not logits[~mask.bool()].any()


@law
@given(model_configs(), lengths(), SEEDS)
def test_activation_checkpointing_changes_no_gradient(
    config: ModelConfig, document_lengths: list[int], seed: int
) -> None:
    model = random_model(config, seed).train()
    ids, cu_seqlens = random_pack(document_lengths, seed)
    model.loss(ids, cu_seqlens).total.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.set_activation_checkpointing(True)
    model.loss(ids, cu_seqlens).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and expected[name] is not None, name
        torch.testing.assert_close(parameter.grad, expected[name], **CLOSE)


def test_bad_packs_are_refused() -> None:
    model = LanguageModel(
        ModelConfig.model_validate({"stages": [{"d_model": 16, "main": "t1", "attention": {"num_heads": 2}}]})
    )
    ids = torch.arange(10)
    for cu_seqlens in ([0, 5, 5, 10], [0, 11], [1, 10], [0, 9]):
        with pytest.raises(ValueError, match="cu_seqlens must rise strictly from 0 to 10"):
            model(ids, torch.tensor(cu_seqlens))
    with pytest.raises(ValueError, match="packed input_ids must be"):
        model(ids[None], torch.tensor([0, 10]))
    with pytest.raises(ValueError, match="contiguous"):
        model(ids[None, :4], attention_mask=torch.tensor([[1, 0, 1, 0]]))
