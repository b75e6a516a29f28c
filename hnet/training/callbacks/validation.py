"""Measures of held-out text, every `training.validate_every` steps and at the last."""

import torch

from hnet.data.validation import ValidationBatches, validation_batches
from hnet.distributed.collectives import sum_over_ranks
from hnet.evaluation.measures import HELD_OUT, measures
from hnet.training.callbacks.base import Callback
from hnet.training.run import Run, batch_windows
from hnet.training.step import StepResult
from hnet.training.tasks import build_task


class Validation(Callback):
    """Adds `validation_bits_per_byte`, or what else the objective measures, to the row of its step."""

    _batches: ValidationBatches

    def on_start(self, run: Run) -> None:
        rank, world_size = run.engine.data_rank, run.engine.data_world_size
        _, windows = batch_windows(run.config, world_size)
        self._batches = validation_batches(
            run.config.data,
            rank=rank,
            world_size=world_size,
            micro_batch_windows=windows,
            task=build_task(run.config, "validation"),
        )

    def on_step(self, run: Run, result: StepResult) -> None:
        every = run.config.training.validate_every
        if run.is_finished or (every is not None and result.step % every == 0):
            run.extras |= {f"{HELD_OUT}{name}": value for name, value in self._measures(run).items()}

    def _measures(self, run: Run) -> dict[str, float]:
        totals = torch.zeros(4, dtype=torch.float64, device=run.engine.device)
        for batch in self._batches:
            sums = run.engine.evaluate(run.engine.to_device(batch))
            totals[0] += sums.cross_entropy
            totals[1] += sums.correct
            counts = torch.tensor([batch.num_targets, batch.target_bytes], dtype=torch.float64)
            totals[2:] += counts.to(totals.device) * run.engine.counts_data
        nats, correct, num_targets, target_bytes = sum_over_ranks(totals).tolist()
        return measures(run.config.model.objective, nats, correct, max(1.0, num_targets), max(1.0, target_bytes))
