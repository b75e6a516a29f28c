"""Save every `training.checkpoint_every` steps, at the last, and when the run is asked to stop.

With `training.async_checkpoints` the files are written while training goes on, and published at the first step after
which every rank has finished; the next save, the end and a stop wait for them.
"""

import logging

from hnet.training.callbacks.base import Callback
from hnet.training.run import Run
from hnet.training.step import StepResult

logger = logging.getLogger(__name__)


class Checkpointing(Callback):
    """On every rank: each writes what it holds."""

    def __init__(self) -> None:
        self._saved_step = 0

    def on_start(self, run: Run) -> None:
        self._saved_step = run.state.step

    def on_step(self, run: Run, result: StepResult) -> None:
        every = run.config.training.checkpoint_every
        if run.is_finished or (every is not None and result.step % every == 0):
            self._save(run)
        else:
            run.writer.poll()

    def on_end(self, run: Run) -> None:
        run.writer.wait()

    def on_stop(self, run: Run) -> None:
        if self._saved_step != run.state.step:
            self._save(run)
        run.writer.wait()
        if run.engine.is_main:
            logger.warning(
                "stopped on request after step %d of %d, which is saved; the same command resumes",
                run.state.step, run.config.training.steps,
            )  # fmt: skip

    def _save(self, run: Run) -> None:
        run.save()
        self._saved_step = run.state.step
