"""A simulation as a table and as a picture."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter
from rich.console import Console
from rich.table import Table

from hnet.errors import ConfigError
from hnet.model.config import ModelConfig
from hnet_launch.code_version import code_version
from hnet_launch.plan.simulate import ORDERS, Simulation

_LABELS = {
    "plain": "stream order",
    "predicted": "predicted costs",
    "exchanged": "and main stage exchanged",
    "oracle": "true costs",
}
_COLOURS = {"plain": "#c2703d", "predicted": "#3b6ea5", "exchanged": "#4f8f5b", "oracle": "#888888"}
_SYNCS = {"micro_batch": "ranks wait at every micro-batch", "step": "ranks wait once a step"}


def made_with(counts: Path, model: ModelConfig) -> dict[str, Any]:
    """What the figures of a replay rest on: they are arithmetic on recorded counts, the same on every device."""
    code = code_version()
    return {
        "device": "none: FLOPs of recorded chunk counts, not times",
        "hnet": code.package,
        "commit": code.commit,
        "uncommitted_changes": code.changes,
        "python": code.python,
        "numpy": np.__version__,
        "counts": {"file": counts.name, "sha256": hashlib.sha256(counts.read_bytes()).hexdigest()},
        "model": model.model_dump(mode="json"),
    }


def print_simulation(simulation: Simulation, console: Console) -> None:
    """Lost time by ranks, and each stage's imbalance."""
    sizes = " and ".join(f"{size:.2f}" for size in simulation.bytes_per_chunk)
    console.print(
        f"{simulation.num_windows:,} recorded windows, {sizes} bytes per chunk; a window's FLOPs vary by "
        f"{simulation.cost_variation:.1%}, its prediction is off by {simulation.prediction_error:.1%} of the mean "
        f"(standard deviations); {simulation.windows_per_rank} windows per rank and step in "
        f"{simulation.micro_batches} micro-batches; chunks exchanged in groups of {simulation.exchange_group} ranks",
        highlight=False,
    )
    for sync, title in _waits(simulation).items():
        table = Table(box=None, pad_edge=False, title=f"time lost to the slowest rank, {title}", title_justify="left")
        table.add_column("ranks", justify="right")
        for order in ORDERS:
            table.add_column(_LABELS[order], justify="right")
        for outcome in simulation.outcomes:
            lost = outcome.lost["step" if sync == "step" else "micro_batch"]
            table.add_row(f"{outcome.ranks:,}", *(f"{lost[order]:.2%}" for order in ORDERS))
        console.print()
        console.print(table, highlight=False)
    table = Table(box=None, pad_edge=False, title="units of the rank that has most over the mean", title_justify="left")
    table.add_column("ranks", justify="right")
    for stage in range(1, 1 + len(simulation.bytes_per_chunk)):
        for order in ("plain", "predicted"):
            table.add_column(f"stage {stage}, {_LABELS[order]}", justify="right")
    for outcome in simulation.outcomes:
        pairs = zip(*(outcome.stage_imbalance[order][1:] for order in ("plain", "predicted")), strict=True)
        table.add_row(f"{outcome.ranks:,}", *(f"{value:.3f}" for pair in pairs for value in pair))
    console.print()
    console.print(table, highlight=False)


def _waits(simulation: Simulation) -> dict[str, str]:
    """With one micro-batch a step both are the same."""
    return _SYNCS if simulation.micro_batches > 1 else {"step": _SYNCS["step"]}


def draw(simulation: Simulation, path: Path) -> None:
    """Lost time over the number of ranks as a PNG. Raises ConfigError if the folder is missing."""
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--png {path}: the folder {path.absolute().parent} does not exist: make it first")
    figure = Figure(figsize=(1.5 + 4.5 * len(_waits(simulation)), 4), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    ranks = [outcome.ranks for outcome in simulation.outcomes]
    waits = _waits(simulation)
    panels = figure.subplots(1, len(waits), sharey=True, squeeze=False)[0]
    for axes, (sync, title) in zip(panels, waits.items(), strict=True):
        for order in ORDERS:
            lost = [outcome.lost["step" if sync == "step" else "micro_batch"][order] for outcome in simulation.outcomes]
            axes.plot(ranks, lost, marker="o", markersize=4, color=_COLOURS[order], label=_LABELS[order])
        axes.set_title(title, fontsize=10)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlabel("ranks")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("time lost to the slowest rank")
    figure.axes[0].legend(frameon=False)
    try:
        figure.savefig(path)
    except OSError as error:
        raise ConfigError(f"--png {path} cannot be written ({error}); give a file that can") from error
