"""One optimizer step: micro-batches in, an update and its statistics out, whatever the number of ranks.

The loss is a sum over all targets of the step divided by the target bytes of *all* micro-batches of *all* ranks, so
accumulation and ranks change the rounding alone. Where the targets are not the next units, it is divided by their
number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hnet.data.batch import Batch
from hnet.distributed.balance import WindowBalance
from hnet.distributed.collectives import max_over_ranks, sum_over_ranks
from hnet.evaluation.measures import BITS_PER_BYTE, measures
from hnet.model.losses import boundary_loss
from hnet.training.config import RunConfig
from hnet.training.engine import Engine
from hnet.training.schedule import learning_rate_factor
from hnet.training.training_module import DeviceBatch, ForwardSums

_NUM_SCALARS = 5
"""Summed over ranks with the boundary sums: cross-entropy, right targets, stop requests, units, squared document
lengths."""


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """One chunking stage over one step's global batch."""

    bytes_per_chunk: float
    """Bytes of text per chunk that this stage makes."""
    ratio_loss: float
    """Unweighted."""
    units: int
    """Units that entered this stage."""
    chunks: int
    """Chunks that left it."""
    dropped: int | None
    """Boundaries that `max_chunk_fraction` took away; None where there is no such bound."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step did, equal on every rank."""

    step: int
    loss: float
    """Nats per target byte (per target, where the objective is not the next unit) plus the weighted ratio losses."""
    measures: Mapping[str, float]
    """What is reported of the targets by name, such as `bits_per_byte`."""
    grad_norm: float
    """Global norm before clipping."""
    learning_rate: float
    """Base rate times schedule, before the stages' multipliers."""
    stages: tuple[StageStatistics, ...]
    units: int
    """Units (bytes, or tokens, and separators of chunks) that went in."""
    text_units: int
    """Of these, all but the separators."""
    context: float
    """Mean document length over units: sum of squared lengths over sum of lengths."""
    target_bytes: int
    skipped: bool
    """Loss or gradient was not finite: nothing was updated."""
    stop_requested: bool
    """Some rank was asked to stop."""
    imbalance: tuple[float, ...] = ()
    """Units of the rank that has most over the mean of the ranks, for every stage, the innermost included, as chunks
    are made: before `engine.exchange_chunks` levels them."""

    @property
    def bits_per_byte(self) -> float:
        """Of a model that predicts the next unit. Raises KeyError for another: it has none."""
        return self.measures[BITS_PER_BYTE]

    @property
    def stage_units(self) -> tuple[int, ...]:
        """Units of the outermost stage, and chunks that every stage made, as `hnet.model.accounting` counts."""
        if not self.stages:
            return (self.units,)
        return (*(stage.units for stage in self.stages), self.stages[-1].chunks)

    @property
    def units_per_stage(self) -> tuple[float, ...]:
        """The same, per unit of the outermost."""
        return tuple(count / self.units for count in self.stage_units)


class TrainStep:
    """Callable that runs one optimizer step on this rank's micro-batches; every rank must call it."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        entered: Callable[[str], None] = lambda where: None,
        balance: WindowBalance | None = None,
    ) -> None:
        """`entered` is told what the step does next; `balance` deals its windows out anew."""
        self._engine, self._entered, self.balance = engine, entered, balance
        self._config = config
        chunking = config.model.stages[:-1]
        self._boundaries = [stage.boundary for stage in chunking]
        self._separators = len(self._boundaries[0].separator_ids) if self._boundaries else 0
        self._weights = [boundary.weight_of_loss for boundary in self._boundaries]
        self._bounded = [boundary.chunk_bound is not None for boundary in self._boundaries]
        self._over_global_batch = config.training.ratio_loss_scope == "global_batch"

    def __call__(self, batches: Sequence[Batch], step: int, *, stop_requested: bool = False) -> StepResult:
        """Run step number `step`, from 1. `stop_requested` of any rank is seen by all in the result."""
        engine, training = self._engine, self._config.training
        factor = learning_rate_factor(self._config.schedule, step, training.steps)
        engine.set_learning_rates(factor)
        if self.balance is not None:
            batches = self.balance.deal(batches)
        on_device = [engine.to_device(batch) for batch in batches]
        target_bytes, num_targets, num_micro_batches = self._global_counts(batches)
        divisor = target_bytes if self._config.model.objective.predicts_next else num_targets
        several = len(batches) > 1
        global_sums = self._boundary_sums(batches, on_device) if self._over_global_batch and several else None

        totals = torch.zeros(_NUM_SCALARS + 6 * len(self._boundaries), dtype=torch.float64, device=engine.device)
        scalars = torch.tensor([float(stop_requested), *_lengths(batches)], dtype=torch.float64)
        scalars[1:] *= engine.counts_data
        totals[2:_NUM_SCALARS] = scalars
        units = []
        for index, (source, batch) in enumerate(zip(batches, on_device, strict=True)):
            is_last = index == len(on_device) - 1
            with engine.accumulate(is_last):
                sums = _without_padding(engine.forward(batch), source)
                if self._over_global_batch and not several:
                    global_sums = sum_over_ranks(_boundary_vector(sums))
                share = 1.0 / num_micro_batches if source.num_targets else 0.0
                ratio = self._ratio_losses(sums, global_sums, share)
                loss = sums.cross_entropy / divisor + (ratio * ratio.new_tensor(self._weights)).sum()
                self._entered("backward")
                engine.backward(_poisoned_if_nonfinite(loss), is_last)
            share_of_value = 1.0 / (engine.sequence_parallel if global_sums is None else len(batches))
            totals += _totals(sums, ratio, share_of_value)
            units.append(_units_per_stage(sums, batch))
        self._entered("sums over ranks")
        sum_over_ranks(totals)
        most_units = max_over_ranks(torch.stack(units).sum(0))
        if global_sums is not None and self._boundaries:
            totals[-len(self._boundaries) :] /= engine.world_size
        self._entered("optimizer")
        grad_norm, applied = engine.update(self._config.optimizer.gradient_clip)
        if self.balance is not None:
            self.balance.learn(batches, torch.stack(units))
        result = self._result(step, totals.tolist(), target_bytes, num_targets, grad_norm, applied, factor)
        return replace(result, imbalance=self._imbalance(most_units.tolist(), result))

    def _global_counts(self, batches: Sequence[Batch]) -> tuple[int, int, int]:
        """Target bytes, targets, and micro-batches that have targets, over all ranks; at least 1 each."""
        each = [(batch.target_bytes, batch.num_targets, int(batch.num_targets > 0)) for batch in batches]
        counts = torch.tensor(each, dtype=torch.int64, device=self._engine.device).sum(0) * self._engine.counts_data
        target_bytes, num_targets, num_micro_batches = sum_over_ranks(counts).tolist()
        return max(1, target_bytes), max(1, num_targets), max(1, num_micro_batches)

    def _imbalance(self, most_units: list[float], result: StepResult) -> tuple[float, ...]:
        means = [units / self._engine.world_size for units in result.stage_units]
        return tuple(most / mean for most, mean in zip(most_units, means, strict=True))

    def _boundary_sums(self, batches: Sequence[Batch], on_device: Sequence[DeviceBatch]) -> Tensor:
        """(5, S) fp64 over all ranks and micro-batches, by a forward pass without gradient."""
        pairs = zip(batches, on_device, strict=True)
        total = sum(_boundary_vector(_without_padding(self._engine.evaluate(batch), source)) for source, batch in pairs)
        assert isinstance(total, Tensor)
        return sum_over_ranks(total)

    def _ratio_losses(self, sums: ForwardSums, global_sums: Tensor | None, share: float) -> Tensor:
        """(S,) ratio losses, scaled so that adding over all micro-batches of all ranks adds the right gradient.

        Per micro-batch (H-Net paper, section 2.2.2, eq. 10): each one's own loss times its `share`. Over the global
        batch: the loss is linear in the mean probability once the boundary fraction is known, so each micro-batch gives
        its own part of that mean the gradient and takes the others' as constants.
        """
        if global_sums is None:
            prob, boundaries, units = self._pack_sums(sums)
            units = units.clamp(min=1)
            return self._each_stage(prob / units, boundaries / units) * share
        prob, global_boundaries, global_units, *_ = global_sums
        others = (prob - sums.boundary_prob.detach()) / global_units
        mean_prob = sums.boundary_prob / global_units.float() + others.float()
        return self._each_stage(mean_prob, (global_boundaries / global_units).float())

    def _pack_sums(self, sums: ForwardSums) -> tuple[Tensor, Tensor, Tensor]:
        """(S,) probability sums, boundaries and units of a whole micro-batch, whose other pieces are constants here."""
        boundaries, units, *_ = sums.counts
        group = self._engine.sequence_group
        if group is None:
            return sums.boundary_prob, boundaries, units
        own = _boundary_vector(sums)
        prob, boundaries, units, *_ = group.sum(own.clone())
        return sums.boundary_prob + (prob - own[0]).to(sums.boundary_prob), boundaries.float(), units.float()

    def _each_stage(self, mean_prob: Tensor, mean_boundary: Tensor) -> Tensor:
        if not self._boundaries:
            return mean_prob
        terms = zip(mean_prob, mean_boundary, self._boundaries, strict=True)
        return torch.stack([boundary_loss(kind, prob, boundary) for prob, boundary, kind in terms])

    def _result(
        self,
        step: int,
        totals: list[float],
        target_bytes: int,
        num_targets: int,
        grad_norm: float,
        applied: bool,
        factor: float,
    ) -> StepResult:
        cross_entropy, correct, stop, units, squared_lengths = totals[:_NUM_SCALARS]
        num_stages = len(self._boundaries)
        _, _, stage_units, chunks, dropped, ratio = (
            totals[_NUM_SCALARS + i * num_stages :][:num_stages] for i in range(6)
        )
        weighted = sum(weight * value for weight, value in zip(self._weights, ratio, strict=True))
        objective = self._config.model.objective
        text_units = units - self._separators * chunks[0] if self._separators else units
        return StepResult(
            step=step,
            loss=cross_entropy / (target_bytes if objective.predicts_next else num_targets) + weighted,
            measures=measures(objective, cross_entropy, correct, num_targets, target_bytes),
            grad_norm=grad_norm,
            learning_rate=self._config.optimizer.learning_rate * factor,
            stages=tuple(
                StageStatistics(target_bytes / made, value, int(entered), int(made), int(lost) if bounded else None)
                for made, lost, value, entered, bounded in zip(
                    chunks, dropped, ratio, stage_units, self._bounded, strict=True
                )
            ),
            units=int(units),
            text_units=int(text_units),
            context=squared_lengths / units,
            target_bytes=target_bytes,
            skipped=not applied,
            stop_requested=stop > 0,
        )


def _lengths(batches: Sequence[Batch]) -> tuple[int, int]:
    """Units, and the sum of squared document lengths."""
    lengths = torch.cat([batch.cu_seqlens.diff().long() * (batch.num_targets > 0) for batch in batches])
    return int(lengths.sum()), int(lengths.square().sum())


def _without_padding(sums: ForwardSums, batch: Batch) -> ForwardSums:
    """Nothing, for a batch that only lets its rank take part; the graph stays, so that gradients are zero, not none."""
    if batch.num_targets:
        return sums
    return ForwardSums(*(tensor * 0 for tensor in sums))


def _units_per_stage(sums: ForwardSums, batch: DeviceBatch) -> Tensor:
    """(S + 1,) int64: what entered every stage, the innermost included."""
    _, units, chunks, _ = sums.counts
    return torch.cat([units, chunks[-1:]]) if len(units) else units.new_tensor([batch.input_ids.numel()])


def _boundary_vector(sums: ForwardSums) -> Tensor:
    """(5, S) fp64: probability sums, boundaries wanted, units, chunks, boundaries dropped."""
    return torch.cat([sums.boundary_prob.detach()[None].double(), sums.counts.double()])


def _totals(sums: ForwardSums, ratio: Tensor, ratio_share: float) -> Tensor:
    """fp64: cross-entropy, right, stop, units, squares; S each of probabilities, wanted, units, chunks, dropped,
    losses."""
    head = torch.zeros(_NUM_SCALARS, dtype=torch.float64, device=ratio.device)
    head[0], head[1] = sums.cross_entropy.detach(), sums.correct
    return torch.cat([head, _boundary_vector(sums).flatten(), ratio.detach().double() * ratio_share])


def _poisoned_if_nonfinite(loss: Tensor) -> Tensor:
    """Times exactly 1, or NaN: a non-finite loss then always has a non-finite gradient.

    An infinite cross-entropy may have a finite gradient; with this, the one test of the global gradient norm, which
    every engine makes on all ranks alike, also covers the loss.
    """
    return loss * (1.0 + 0.0 * loss.detach())
