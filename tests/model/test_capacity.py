"""`max_chunk_fraction`: a bound on chunks that no pack exceeds."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.boundaries.capacity import max_chunks, within_capacity
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.testing.strategies import lengths, random_pack
from hnet_kernels import backend
from hnet_kernels.chunk import op as chunk_op


def boundaries_of(prob: torch.Tensor, cu_seqlens: torch.Tensor) -> Boundaries:
    prob = prob.index_fill(0, cu_seqlens[:-1].long(), 1.0)
    return Boundaries.decided(prob, prob > 0.5)


def model_with(fraction: float | None, *, fill: bool = False) -> LanguageModel:
    outer = {"d_model": 16, "encoder": "t1", "decoder": "t1", "attention": {"num_heads": 2}}
    inner = {"d_model": 16, "main": "t1", "attention": {"num_heads": 2}}
    torch.manual_seed(0)
    config = ModelConfig(stages=[outer | {"boundary": {"max_chunk_fraction": fraction, "fill_chunks": fill}}, inner])
    return LanguageModel(config)


@settings(max_examples=40)
@given(lengths(), st.floats(0.01, 1), st.integers(0, 1000))
def test_keeps_first_units_and_the_most_confident_boundaries(document_lengths, fraction, seed):
    _, cu_seqlens = random_pack(document_lengths, seed)
    torch.manual_seed(seed)
    before = boundaries_of(torch.rand(sum(document_lengths)), cu_seqlens)
    after = within_capacity(before, cu_seqlens, fraction, fill=False)
    limit = max_chunks(sum(document_lengths), len(document_lengths), fraction)
    assert int(after.mask.sum()) == min(limit, int(before.mask.sum()))
    assert after.mask[cu_seqlens[:-1].long()].all() and not (after.mask & ~before.mask).any()
    dropped = before.mask & ~after.mask
    assert int(after.num_dropped) == int(dropped.sum()) and int(after.num_wanted) == int(before.mask.sum())
    if dropped.any():
        assert before.prob[dropped].max() <= before.prob[after.mask].min()
    torch.testing.assert_close(after.confidence, before.prob.where(after.mask, 1 - before.prob))


@settings(max_examples=40)
@given(lengths(), st.floats(0.01, 1), st.integers(0, 1000))
def test_filled_to_the_bound_with_the_likeliest_units(document_lengths, fraction, seed):
    _, cu_seqlens = random_pack(document_lengths, seed)
    torch.manual_seed(seed)
    before = boundaries_of(torch.rand(sum(document_lengths)), cu_seqlens)
    after = within_capacity(before, cu_seqlens, fraction, fill=True)
    limit = max_chunks(sum(document_lengths), len(document_lengths), fraction)
    assert after.num_chunks == int(after.mask.sum()) == limit and not after.at_least_half
    added = after.mask & ~before.mask
    assert not added.any() or not (before.mask & ~after.mask).any()
    if added.any() and not after.mask.all():
        assert before.prob[added].min() >= before.prob[~after.mask].max()


def test_with_a_fixed_number_of_chunks_the_host_asks_for_none(monkeypatch):
    ids, cu_seqlens = random_pack([60, 40], 0)
    known = []
    pending = chunk_op.PendingCount

    class Spy(pending):
        def __init__(self, chunk_cu_seqlens, count):
            known.append(count)
            super().__init__(chunk_cu_seqlens, count)

    monkeypatch.setattr(chunk_op, "PendingCount", Spy)
    model = model_with(0.3, fill=True)
    losses = model.loss(ids, cu_seqlens)
    losses.total.backward()
    assert known == [30] and losses.output.stages[0].num_chunks == 30
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    model_with(None).loss(ids, cu_seqlens)
    assert known == [30, None]


def test_kernels_and_reference_agree_on_a_filled_pack():
    ids, cu_seqlens = random_pack([9, 1, 14], 0)
    model = model_with(0.6, fill=True)
    want = model(ids, cu_seqlens).logits
    with backend("triton"):
        torch.testing.assert_close(model(ids, cu_seqlens).logits, want, rtol=1e-4, atol=1e-5)


def test_filling_needs_a_bound():
    with pytest.raises(ValueError, match="fill_chunks needs max_chunk_fraction"):
        model_with(None, fill=True)


@pytest.mark.parametrize("fill", [False, True])
def test_documents_keep_a_chunk_when_the_probabilities_are_nan(fill):
    _, cu_seqlens = random_pack([20, 1, 9], 0)
    broken = boundaries_of(torch.full((30,), float("nan")), cu_seqlens)
    after = within_capacity(broken, cu_seqlens, 0.2, fill=fill)
    assert after.mask[cu_seqlens[:-1].long()].all() and int(after.mask.sum()) == (6 if fill else 3)


def test_a_pack_that_asks_for_fewer_is_left_alone():
    ids, cu_seqlens = random_pack([30, 1, 20], 0)
    assert torch.equal(model_with(1.0)(ids, cu_seqlens).logits, model_with(None)(ids, cu_seqlens).logits)


def test_the_ratio_loss_sees_what_was_asked_for():
    ids, cu_seqlens = random_pack([60, 40], 0)
    free, bounded = (model_with(fraction).loss(ids, cu_seqlens) for fraction in (None, 0.1))
    stage = bounded.output.stages[0]
    assert stage.num_chunks == 10 and int(stage.boundaries.num_dropped) == free.output.stages[0].num_chunks - 10
    torch.testing.assert_close(bounded.boundary[0], free.boundary[0])
    bounded.total.backward()


def test_generation_is_not_bounded():
    ids, cu_seqlens = random_pack([60, 40], 0)
    free, bounded = model_with(None), model_with(0.1)
    want = free.prefill(ids, cu_seqlens, free.new_cache(2)).logits
    assert torch.equal(bounded.prefill(ids, cu_seqlens, bounded.new_cache(2)).logits, want)
    assert not torch.equal(bounded(ids, cu_seqlens).logits, want)


@pytest.mark.parametrize("fraction", [0, 1.5, -1])
def test_a_fraction_outside_its_range_is_refused(fraction):
    with pytest.raises(ValueError, match="max_chunk_fraction"):
        model_with(fraction)


def test_dropped_boundaries_are_counted_in_the_metrics(tmp_path):
    from hnet.config import load_config
    from hnet.training.config import RunConfig
    from hnet.training.loop import train

    (tmp_path / "train.txt").write_text("a line of some words to train on\n" * 60)
    config = load_config(
        RunConfig,
        {
            "output_dir": str(tmp_path / "run"),
            "model": json.loads(model_with(0.1).config.model_dump_json()),
            "data": {"train": str(tmp_path / "train.txt"), "sequence_length": 128},
            "training": {"steps": 2, "global_batch_bytes": 512, "log_every": 1, "peak_flops": 1e10},
            "logging": {"progress": False},
        },
    )
    train(config)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["boundary"][0]["dropped_boundaries"] > 0 for row in rows)
    assert all(row["boundary"][0]["bytes_per_chunk"] >= 9 for row in rows)
