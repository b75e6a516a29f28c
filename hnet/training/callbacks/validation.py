"""Held-out bits per byte, every `training.validate_every` steps and at the last."""

import math

import torch

from hnet.data.validation import ValidationBatches, validation_batches
from hnet.distributed.collectives import sum_over_ranks
from hnet.training.callbacks.base import Callback
from hnet.training.run import Run, batch_windows
from hnet.training.step import StepResult


class Validation(Callback):
    """Adds `validation_bits_per_byte` to the row of its step."""

    _batches: ValidationBatches

    def on_start(self, run: Run) -> None:
        rank, world_size = run.engine.data_rank, run.engine.data_world_size
        _, windows = batch_windows(run.config, world_size)
        self._batches = validation_batches(
            run.config.data,
            rank=rank,
            world_size=world_size,
            micro_batch_windows=windows,
            layout=run.config.model.layout(),
        )

    def on_step(self, run: Run, result: StepResult) -> None:
        every = run.config.training.validate_every
        if run.is_finished or (every is not None and result.step % every == 0):
            run.extras["validation_bits_per_byte"] = self._bits_per_byte(run)

    def _bits_per_byte(self, run: Run) -> float:
        totals = torch.zeros(2, dtype=torch.float64, device=run.engine.device)
        for batch in self._batches:
            sums = run.engine.evaluate(run.engine.to_device(batch))
            totals[0] += sums.cross_entropy
            totals[1] += batch.target_bytes * run.engine.counts_data
        nats, target_bytes = sum_over_ranks(totals).tolist()
        return nats / max(1.0, target_bytes) / math.log(2)
