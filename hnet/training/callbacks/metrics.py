"""Log every `training.log_every` steps, the first, the last, and those to which another callback added something."""

import torch

from hnet.distributed.collectives import max_over_ranks
from hnet.training.callbacks.base import Callback
from hnet.training.metrics import Throughput, build_row, peak_memory_bytes, training_flops
from hnet.training.peak import peak_flops
from hnet.training.run import Run
from hnet.training.step import StepResult


class Metrics(Callback):
    """Makes a row of the contract and hands it to all callbacks. On every rank, since the peaks are gathered."""

    def __init__(self) -> None:
        self._work = Throughput()
        self._peak = 0.0

    def on_start(self, run: Run) -> None:
        training = run.config.training
        self._peak = peak_flops(training.peak_flops, run.engine.device, training.precision) * run.engine.world_size

    def on_step(self, run: Run, result: StepResult) -> None:
        self._work.add(run.config, result, run.step_seconds)
        is_due = result.step == 1 or result.step % run.config.training.log_every == 0 or run.is_finished
        if not is_due and not run.extras:
            return
        peak_memory = torch.tensor(peak_memory_bytes(run.engine.device), device=run.engine.device)
        row = build_row(
            result,
            run.state,
            self._work,
            flops=training_flops(run.config, result),
            peak_flops=self._peak,
            peak_memory=int(max_over_ranks(peak_memory)),
        )
        self._work = Throughput()
        run.log({**row, **run.extras})
