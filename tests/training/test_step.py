"""One step: the loss is what the model says it is, and accumulation changes the rounding alone."""

import math
from collections.abc import Callable

import pytest
import torch

from hnet.training.config import RunConfig
from hnet.training.run import open_run
from hnet.training.step import StepResult

Make = Callable[..., RunConfig]


def first_steps(config: RunConfig, num_steps: int = 4) -> tuple[list[StepResult], dict[str, torch.Tensor]]:
    with open_run(config) as run:
        results = [run.next_step() for _ in range(num_steps)]
        return results, {name: p.detach().clone() for name, p in run.engine.model.named_parameters()}


def test_loss_is_the_models_loss_per_target_byte(make_config: Make) -> None:
    with open_run(make_config()) as run:
        batch = next(run.stream)
        with torch.no_grad():
            losses = run.engine.model.loss(batch.input_ids, batch.cu_seqlens, batch.labels)  # type: ignore[operator]
        result = run.train_step([batch], 1)
    nats = losses.cross_entropy.item() * batch.num_targets
    assert result.bits_per_byte == pytest.approx(nats / batch.target_bytes / math.log(2), rel=1e-6)
    assert result.stages[0].ratio_loss == pytest.approx(losses.boundary[0].item(), rel=1e-6)
    assert result.loss == pytest.approx(nats / batch.target_bytes + 0.03 * losses.boundary[0].item(), rel=1e-6)
    assert result.stages[0].bytes_per_chunk == pytest.approx(batch.target_bytes / losses.output.stages[0].num_chunks)
    assert result.target_bytes == batch.target_bytes
    assert result.units == 512


def test_accumulation_changes_only_the_rounding(make_config: Make) -> None:
    whole, whole_weights = first_steps(make_config("training.ratio_loss_scope=global_batch"))
    parts, weights = first_steps(
        make_config("training.ratio_loss_scope=global_batch", "training.micro_batch_bytes=128")
    )
    for one, other in zip(whole, parts, strict=True):
        assert other.loss == pytest.approx(one.loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-5)
        assert other.target_bytes == one.target_bytes
        assert [(s.units, s.chunks) for s in other.stages] == [(s.units, s.chunks) for s in one.stages]
    for name, weight in whole_weights.items():
        torch.testing.assert_close(weights[name], weight, atol=2e-5, rtol=1e-4)


def test_the_papers_scope_averages_the_micro_batches_own_ratio_losses(make_config: Make) -> None:
    config = make_config("training.micro_batch_bytes=256")
    with open_run(config) as run:
        batches = [next(run.stream), next(run.stream)]
        with torch.no_grad():
            own = [run.engine.model.loss(b.input_ids, b.cu_seqlens, b.labels).boundary[0].item() for b in batches]  # type: ignore[operator]
        result = run.train_step(batches, 1)
    assert result.stages[0].ratio_loss == pytest.approx(sum(own) / 2, rel=1e-6)


def test_recomputation_and_precision_leave_the_loss_alone(make_config: Make) -> None:
    (plain,), plain_weights = first_steps(make_config(), 1)
    (recomputed,), weights = first_steps(make_config("training.activation_checkpointing=true"), 1)
    assert recomputed.loss == plain.loss
    assert all(torch.equal(weights[name], weight) for name, weight in plain_weights.items())
    (half,), half_weights = first_steps(make_config("training.precision=bf16"), 1)
    assert half.loss == pytest.approx(plain.loss, rel=1e-2)
    assert half.loss != plain.loss
    assert {weight.dtype for weight in half_weights.values()} == {torch.float32}


def test_learning_rates_are_per_stage(make_config: Make) -> None:
    with open_run(make_config("optimizer.lr_multipliers=[2.0,0.5]", "schedule.warmup=0.5")) as run:
        result = run.next_step()
        groups = run.engine.optimizer.torch_optimizer.param_groups
        rates = {rate for group in groups for rate in [group["lr"]]}
    assert result.learning_rate == pytest.approx(2e-3 / 3)
    assert sorted(rates) == pytest.approx([1e-3 / 3, 4e-3 / 3])
    assert {group["weight_decay"] for group in groups} == {0.0, 0.1}


def test_clipping_bounds_the_update(make_config: Make) -> None:
    (free,), _ = first_steps(make_config("optimizer.gradient_clip=0"), 1)
    (clipped,), _ = first_steps(make_config("optimizer.gradient_clip=0.01"), 1)
    assert free.grad_norm == clipped.grad_norm > 0.01
