"""The result of `hnet bench kernels` as a table in the terminal and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich.console import Console
from rich.table import Column, Table

COLOURS = {"forward": "#3b6ea5", "backward": "#c2703d"}
RIVALS = ("eager", "compile", "upstream", "padded_sdpa")


def print_table(console: Console, report: Mapping[str, Any]) -> None:
    """A table for each size, a line for each op and dtype; then what was left out or is wrong, each said once."""
    machine = report["machine"]
    rate = report["copy_bytes_per_second"]["median"]
    console.print(f"{machine['device']}: a copy moves {rate / 1e9:,.1f} GB/s", highlight=False)
    rivals = [name for name in RIVALS if any(name in row["ways"] for row in report["rows"])]
    for units in dict.fromkeys(row["num_units"] for row in report["rows"]):
        columns = (f"{units:,} units", "", "fwd ms", "of copy", "bwd ms", "of copy", *(f"vs {name}" for name in rivals))
        table = Table(*(Column(name, no_wrap=True) for name in columns), box=None, pad_edge=False)
        for row in (row for row in report["rows"] if row["num_units"] == units):
            cells = _cells(row, rivals) if row["check"]["passed"] else ["wrong, not timed"]
            table.add_row(row["case"], row["dtype"], *cells)
        console.print(table, highlight=False)
    console.print("of copy: floor bytes per second over a copy's; vs: times faster, forward and backward together")
    for row in report["rows"]:
        if not row["check"]["passed"]:
            error, limit = row["check"]["relative_error"], row["check"]["limit"]
            console.print(f"{row['case']} {row['dtype']}: differs from eager by {error:.1e}, allowed {limit:.0e}")
    left_out = {(name, why): row["case"] for row in reversed(report["rows"]) for name, why in row["left_out"].items()}
    for (name, why), case in sorted(left_out.items()):
        console.print(f"left out: {name} (such as for {case}): {why}", highlight=False, markup=False)


def _cells(row: Mapping[str, Any], rivals: list[str]) -> list[str]:
    summary = row["summary"]
    cells = []
    for name in ("forward", "backward"):
        seconds, share = summary["seconds"][name], summary["share_of_copy"][name]
        cells += ["?", "?"] if seconds is None else [f"{seconds * 1e3:.4g}", f"{share:.0%}"]
    faster = summary["times_faster_than"]
    return cells + [f"{faster[name]['both']:.2f}x" if name in faster else "" for name in rivals]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Bars of every op at the largest size: bandwidth over a copy's, and times faster than other ways."""
    largest = max(row["num_units"] for row in report["rows"])
    rows = [row for row in report["rows"] if row["num_units"] == largest and row["check"]["passed"]][::-1]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    bandwidth, speed = figure.subplots(1, 2, sharey=True)
    for offset, name in ((0.2, "forward"), (-0.2, "backward")):
        shares = [row["summary"]["share_of_copy"][name] or 0 for row in rows]
        bandwidth.barh([i + offset for i in range(len(rows))], shares, 0.36, color=COLOURS[name], label=name)
    bandwidth.axvline(1, color="#888888", linewidth=0.8)
    bandwidth.set_ylim(-0.6, len(rows) - 0.4)
    bandwidth.set_yticks(range(len(rows)), [f"{row['case']} {row['dtype']}" for row in rows])
    bandwidth.set_xlabel("floor bytes per second / copy bandwidth")
    bandwidth.legend(frameon=False, fontsize=8)
    for name, marker in zip(RIVALS, "os^D", strict=True):
        points = [(row["summary"]["times_faster_than"].get(name, {}).get("both"), i) for i, row in enumerate(rows)]
        known = [(x, y) for x, y in points if x is not None]
        if known:
            speed.plot(*zip(*known, strict=True), marker, markersize=5, label=name)
    speed.axvline(1, color="#888888", linewidth=0.8)
    speed.set_xscale("log", base=2)
    speed.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    speed.set_xlabel("times faster than, forward and backward")
    if speed.lines[:-1]:
        speed.legend(frameon=False, fontsize=8)
    for axes in (bandwidth, speed):
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    what = "reference operations" if report["implementation"] == "reference" else "kernels"
    width = rows[0]["width"] if rows else 0
    figure.suptitle(f"{report['machine']['device']}: {what}, {largest:,} units, D = {width}", fontsize=11)
    figure.savefig(path, format="png")
