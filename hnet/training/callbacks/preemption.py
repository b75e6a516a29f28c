"""Tell a launcher that the run ended before its last step because it was asked to."""

from pathlib import Path

from hnet.training.callbacks.base import Callback
from hnet.training.config import PREEMPTED
from hnet.training.run import Run


class Preemption(Callback):
    """On rank 0."""

    def on_start(self, run: Run) -> None:
        _marker(run).unlink(missing_ok=True)

    def on_stop(self, run: Run) -> None:
        _marker(run).write_text(f"stopped on request after step {run.state.step}\n")


def _marker(run: Run) -> Path:
    return run.output_dir / PREEMPTED
