"""What the user sees while it trains: a progress bar on a terminal, a line per logged step elsewhere."""

import sys
import time

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hnet.evaluation.measures import HELD_OUT, main_measure, shown, title
from hnet.training.callbacks.base import Callback, Row
from hnet.training.run import Run
from hnet.training.step import StepResult


class Console(Callback):
    """`use_bar` False, or an output that is no terminal, gives plain lines, with time left since no bar shows it."""

    def __init__(self, use_bar: bool, console: RichConsole | None = None) -> None:
        self._console = console or RichConsole(file=sys.stdout, soft_wrap=True)
        self._use_bar = use_bar and self._console.is_terminal
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._began, self._first_step = 0.0, 0

    def on_start(self, run: Run) -> None:
        self._began, self._first_step = time.perf_counter(), run.state.step
        if not self._use_bar or run.is_finished:
            return
        self._progress = Progress(
            TextColumn("[bold]training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=self._console,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task(
            "training", total=run.config.training.steps, completed=run.state.step, numbers=""
        )

    def on_step(self, run: Run, result: StepResult) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=result.step)

    def on_row(self, run: Run, row: Row) -> None:
        numbers = summary(row)
        if self._progress is not None:
            self._progress.update(self._task, numbers=numbers)
            if held_out := shown(row, HELD_OUT):
                line = f"step {row['step']}: held-out {title(main_measure(row))} {''.join(held_out)}"
                self._progress.console.print(line, highlight=False)
            return
        steps = run.config.training.steps
        per_step = (time.perf_counter() - self._began) / max(1, row["step"] - self._first_step)
        left = time.strftime("%H:%M:%S", time.gmtime(per_step * (steps - row["step"])))
        found = shown(row, HELD_OUT)
        also = f"  held-out {''.join(found)}" if found else ""
        self._console.print(f"step {row['step']}/{steps}  {numbers}{also}  {left} left", highlight=False)

    def on_stop(self, run: Run) -> None:
        self.close()

    def on_end(self, run: Run) -> None:
        self.close()

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def summary(row: Row) -> str:
    """`2.413 bits/byte  5.1 | 9.8 bytes/chunk  12.3 kB/s`: the numbers that tell how a run is doing."""
    value, right = shown(row, digits=3) or ("", "")
    finite = value != "not finite"
    parts = [f"{value} {title(main_measure(row)).replace(' per ', '/')}{right}" if finite else value]
    if row["boundary"]:
        parts.append(" | ".join(f"{stage['bytes_per_chunk'] or 0:.1f}" for stage in row["boundary"]) + " bytes/chunk")
    parts.append(f"{row['bytes_per_second'] / 1000:.1f} kB/s")
    if skipped := row.get("skipped_steps"):
        parts.append(f"{skipped} skipped")
    return "  ".join(parts)
