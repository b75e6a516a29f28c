"""Save every `training.checkpoint_every` steps, at the last, and when the run is asked to stop."""

import logging

from hnet.training.callbacks.base import Callback
from hnet.training.run import Run
from hnet.training.step import StepResult

logger = logging.getLogger(__name__)


class Checkpointing(Callback):
    """On every rank, since sharded state is gathered; rank 0 writes."""

    def __init__(self) -> None:
        self._saved_step = 0

    def on_start(self, run: Run) -> None:
        self._saved_step = run.state.step

    def on_step(self, run: Run, result: StepResult) -> None:
        every = run.config.training.checkpoint_every
        if run.is_finished or (every is not None and result.step % every == 0):
            self._save(run)

    def on_stop(self, run: Run) -> None:
        if self._saved_step != run.state.step:
            self._save(run)
        if run.engine.is_main:
            logger.warning(
                "stopped on request after step %d of %d, which is saved; the same command resumes",
                run.state.step, run.config.training.steps,
            )  # fmt: skip

    def _save(self, run: Run) -> None:
        run.save()
        self._saved_step = run.state.step
