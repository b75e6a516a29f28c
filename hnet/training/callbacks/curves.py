"""`curves.png`, drawn from `metrics.jsonl` when the run ends or stops."""

from hnet.training.callbacks.base import Callback
from hnet.training.run import Run


class Curves(Callback):
    def on_stop(self, run: Run) -> None:
        self._draw(run)

    def on_end(self, run: Run) -> None:
        self._draw(run)

    def _draw(self, run: Run) -> None:
        from hnet.inspect.curves import plot_curves

        plot_curves(run.output_dir)
