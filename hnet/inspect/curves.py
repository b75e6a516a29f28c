"""`curves.png`: a run's learning curves, drawn from its `metrics.jsonl`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter

from hnet.errors import DataError
from hnet.evaluation.measures import HELD_OUT, main_measure, title

BLUE, ORANGE, GREY = "#1f6fa8", "#d9700b", "#5a6672"
STAGE_COLOURS = ("#1f6fa8", "#7a3ea1", "#2e8b57", "#a3324b")


def plot_curves(run_dir: Path) -> Path:
    """Draws bits per byte (or what else the model learns by), bytes per chunk, learning rate and gradient norm over the
    bytes seen.

    Returns the path of the picture, `run_dir/curves.png`, which is replaced as a whole.

    Raises:
        DataError: there is no `metrics.jsonl`, it holds no step, or a line of it is damaged.
    """
    rows = read_metrics(run_dir / "metrics.jsonl")
    figure = Figure(figsize=(11, 7), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(rows), fontsize=12.5, weight="bold", x=0.02, ha="left", parse_math=False)
    grid = figure.add_gridspec(2, 3, height_ratios=(1.5, 1))
    _loss(figure.add_subplot(grid[0, :]), rows)
    _bytes_per_chunk(figure.add_subplot(grid[1, 0]), rows)
    _series(figure.add_subplot(grid[1, 1]), rows, "learning_rate", "learning rate")
    _series(figure.add_subplot(grid[1, 2]), rows, "grad_norm", "gradient norm", logarithmic=True)
    path = run_dir / "curves.png"
    partial = run_dir / ".curves.png.partial"
    figure.savefig(partial, format="png")
    partial.replace(path)
    return path


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Logged steps of a run in order; of a step that was logged twice (after a resume) the later line counts.

    Raises:
        DataError: no such file, no step in it, or a line that is no JSON object with a `step`.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give the output_dir of a run that has logged a step")
    rows: dict[int, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            rows[row["step"]] = row
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # a run that is being written, or was killed, may end in half a line
            raise DataError(f"{path} line {number} is no logged step: remove the line") from error
    if not rows:
        raise DataError(f"{path} holds no step: wait until the run has logged one")
    return [rows[step] for step in sorted(rows)]


def smooth(values: Sequence[float], halflife: float) -> list[float]:
    """Exponential moving average, without the bias of its start; non-finite values leave it unchanged."""
    decay = 0.5 ** (1 / halflife)
    total = weight = 0.0
    result = []
    for value in values:
        if math.isfinite(value):
            total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight if weight else math.nan)
    return result


def _title(rows: list[dict[str, Any]]) -> str:
    last = rows[-1]
    parts = [f"step {last['step']:,}"]
    if "bytes_seen" in last:
        parts.append(f"{EngFormatter(places=1)(last['bytes_seen'])}B of text seen")
    name = main_measure(last)
    validation = [row[HELD_OUT + name] for row in rows if HELD_OUT + name in row]
    if validation:
        parts.append(f"{validation[-1]:.3f} held-out {title(name)}")
    return "   ·   ".join(parts)


def _values(rows: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(bytes seen, value) of the rows that have the key; a null, as JSON writes a non-finite number, is NaN."""
    chosen = [row for row in rows if key in row]
    xs = [float(row.get("bytes_seen", row["step"])) for row in chosen]
    return xs, [math.nan if row[key] is None else float(row[key]) for row in chosen]


def _loss(axes: Axes, rows: list[dict[str, Any]]) -> None:
    name = main_measure(rows[-1])
    xs, values = _values(rows, name)
    smoothed = smooth(values, max(len(values) / 50, 1))
    axes.plot(xs, values, color=BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(xs, smoothed, color=BLUE, linewidth=1.8, label="training, smoothed")
    held_out_xs, held_out = _values(rows, HELD_OUT + name)
    if held_out:
        axes.plot(held_out_xs, held_out, "o-", color=ORANGE, markersize=4.5, linewidth=1, label="held out")
        axes.annotate(
            f"{held_out[-1]:.3f}", (held_out_xs[-1], held_out[-1]), color=ORANGE, weight="bold",
            xytext=(-4, 9), textcoords="offset points", ha="right",
        )  # fmt: skip
    finite = [value for value in (*smoothed[len(smoothed) // 20 :], *held_out) if math.isfinite(value)]
    if finite:
        low, high = min(finite), max(finite)
        margin = 0.08 * (high - low) or 0.1
        axes.set_ylim(low - 2 * margin, high + margin)
    _finish(axes, title(name))
    axes.legend(frameon=False, loc="upper right")


def _bytes_per_chunk(axes: Axes, rows: list[dict[str, Any]]) -> None:
    chosen = [row for row in rows if row.get("boundary")]
    for stage in range(max((len(row["boundary"]) for row in chosen), default=0)):
        xs, values = _values([{**row, **row["boundary"][stage]} for row in chosen], "bytes_per_chunk")
        colour = STAGE_COLOURS[stage % len(STAGE_COLOURS)]
        axes.plot(xs, values, color=colour, alpha=0.25, linewidth=0.7)
        axes.plot(xs, smooth(values, max(len(values) / 50, 1)), color=colour, linewidth=1.6, label=f"stage {stage}")
    _finish(axes, "bytes per chunk")
    if chosen:
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=8)
    else:
        axes.text(0.5, 0.5, "no chunks", transform=axes.transAxes, ha="center", color=GREY)


def _series(axes: Axes, rows: list[dict[str, Any]], key: str, label: str, *, logarithmic: bool = False) -> None:
    xs, values = _values(rows, key)
    axes.plot(xs, values, color=BLUE, linewidth=1.2)
    if logarithmic and any(math.isfinite(value) and value > 0 for value in values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _finish(axes, label)


def _finish(axes: Axes, label: str) -> None:
    axes.set_title(label, loc="left", fontsize=10, color=GREY)
    axes.set_xlabel("bytes seen", fontsize=8.5, color=GREY)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8.5, colors=GREY)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.margins(x=0.01)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color("#c4cbd1")
