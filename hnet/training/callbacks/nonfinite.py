"""Report skipped steps, and stop a run that makes nothing but them."""

import logging

from hnet.errors import UserError
from hnet.training.callbacks.base import Callback
from hnet.training.run import Run
from hnet.training.step import StepResult

logger = logging.getLogger(__name__)


class StopAfterNonfinite(Callback):
    """Raises UserError on every rank after `training.max_nonfinite_steps` skipped steps in a row."""

    def on_step(self, run: Run, result: StepResult) -> None:
        if not result.skipped:
            return
        in_a_row, most = run.state.nonfinite_in_a_row, run.config.training.max_nonfinite_steps
        if run.engine.is_main:
            logger.warning(
                "step %d skipped: loss %g, gradient norm %g (%d in a row, %d in all)",
                result.step, result.loss, result.grad_norm, in_a_row, run.state.skipped_steps,
            )  # fmt: skip
        if in_a_row >= most:
            raise UserError(
                f"stopped at step {result.step}: loss or gradient was not finite in {most} steps in a row "
                "(training.max_nonfinite_steps). Try a lower optimizer.learning_rate, a longer schedule.warmup, "
                "a smaller optimizer.gradient_clip or training.precision=fp32, and resume from the last checkpoint"
            )
