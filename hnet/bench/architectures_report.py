"""The result of `hnet bench architectures`: `table.json`, the table in `README.md` and a picture."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from hnet.bench.machine import describe_machine
from hnet.errors import ConfigError
from hnet.evaluation.measures import BITS_PER_BYTE, HELD_OUT, main_measure, title
from hnet.inspect.curves import read_metrics
from hnet.model.accounting import TRAINING_FLOPS, count_lookup_parameters, count_parameters, rule_flops
from hnet.training.config import RunConfig

JSON, PAGE, PICTURE = "table.json", "README.md", "bits_per_byte.png"
BEGIN, END = "<!-- table: written by `hnet bench architectures` -->", "<!-- end of table -->"
_LAST = 10
"""Logged steps whose mean stands for the end of a run."""
_COLUMNS = (
    "model", "parameters", "of these looked up", "forward MFLOP per byte", "bytes per chunk",
    "held-out bits per byte, first and last", "text seen, MB", "kB/s", "ZeRO-3, two ranks: loss, first and last",
)  # fmt: skip

Entry = dict[str, Any]


class Table:
    """The entries of all models in a folder, and the page and picture made of them."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigError if the folder's page has no place for the table."""
        self._folder = folder
        self._page()

    def entry(self, name: str) -> Entry | None:
        """What is known of a model."""
        return self._entries().get(name)

    def write(self, name: str, entry: Entry) -> None:
        """Take up an entry, and write all three files."""
        # Read again: a second command may have written entries of other models meanwhile.
        entries = dict(sorted((self._entries() | {name: entry}).items()))
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / JSON).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        draw(entries, self._folder / PICTURE)
        before, after = self._page()
        lines = markdown(entries, pages(self._folder))
        text = "\n".join([BEGIN, "", *lines, "", END])
        (self._folder / PAGE).write_text(before + text + after, encoding="utf-8")

    def _entries(self) -> dict[str, Entry]:
        path = self._folder / JSON
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _page(self) -> tuple[str, str]:
        """What stands before and after the table."""
        path = self._folder / PAGE
        if not path.is_file():
            return "", "\n"
        text = path.read_text(encoding="utf-8")
        before, begin, rest = text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ConfigError(f"{path} has no place for the table: put the lines {BEGIN} and {END} there")

        return before, after


def pages(folder: Path) -> list[str]:
    """Names of the architectures that have a page in `folder`."""
    return sorted(path.stem for path in folder.glob("*.md") if path.name != PAGE)


def page_of(name: str, named: Sequence[str]) -> str | None:
    """The page of a model: the longest of these names that its own begins with."""
    return max((page for page in named if name.startswith(f"{page}_")), key=len, default=None)


def summary(config: RunConfig) -> Entry:
    """What a finished run of one process reached, from its metrics."""
    rows = read_metrics(Path(config.output_dir) / "metrics.jsonl")
    chunks = [_mean(stage) for stage in zip(*(_chunk_sizes(row) for row in rows[-_LAST:]), strict=True)]
    separators = len(config.model.stages[0].boundary.separator_ids) / chunks[0] if chunks else 0.0
    of_rule = (1 + separators) * rule_flops(config.model)
    training_flops = fmean(row["flops_per_byte"] for row in rows[-_LAST:])
    return _curve(rows) | {
        "parameters": count_parameters(config.model),
        "lookup_parameters": count_lookup_parameters(config.model),
        "forward_flops_per_byte": (training_flops - of_rule) / TRAINING_FLOPS + of_rule,
        "training_flops_per_byte": training_flops,
        "bytes_per_chunk": chunks,
        "text": [source.path for source in config.data.train],
        "machine": describe_machine(torch.device("cpu")),
    }


def summary_of_ranks(config: RunConfig) -> Entry:
    """What a finished run of several ranks reached, from its metrics."""
    return _curve(read_metrics(Path(config.output_dir) / "metrics.jsonl")) | {
        "machine": describe_machine(torch.device("cpu"))
    }


def _curve(rows: list[dict[str, Any]]) -> Entry:
    seen = [row["bytes_seen"] for row in rows]
    steps = zip(rows, [0, *seen], strict=False)
    seconds = sum((row["bytes_seen"] - before) / row["bytes_per_second"] for row, before in steps)
    measure = main_measure(rows[-1])
    scored = [row for row in rows if HELD_OUT + measure in row]
    return {
        "steps": rows[-1]["step"],
        "seconds": seconds,
        "bytes_seen": seen[-1],
        "bytes_per_second": seen[-1] / seconds,
        "loss": [rows[0]["loss"], _mean([row["loss"] for row in rows[-_LAST:]])],
        "measure": measure,
        "held_out": [[row["bytes_seen"], row[HELD_OUT + measure]] for row in scored],
    }


def _chunk_sizes(row: dict[str, Any]) -> list[float | None]:
    return [stage["bytes_per_chunk"] for stage in row["boundary"]]


def _mean(values: Sequence[float | None]) -> float:
    return fmean(float("nan") if value is None else value for value in values)


def markdown(entries: dict[str, Entry], named: Sequence[str]) -> list[str]:
    """The table, and what was measured with what."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "--:|" * (len(_COLUMNS) - 1)]
    for name, entry in entries.items():
        page = page_of(name, named)
        label = f"`{name}`" if page is None else f"[`{name}`]({page}.md)"
        lines.append("| " + " | ".join([label, *_cells(entry)]) + " |")
    return [*lines, "", f"![Held-out bits per byte over the text seen]({PICTURE})", "", *_made_with(entries)]


def _cells(entry: Entry) -> Iterator[str]:
    yield f"{entry['parameters'] / 1e6:.2f} M"
    yield f"{entry['lookup_parameters'] / 1e6:.2f} M"
    yield f"{entry['forward_flops_per_byte'] / 1e6:.2f}"
    yield ", ".join(f"{size:.2f}" for size in entry["bytes_per_chunk"]) or "-"
    held_out = entry["held_out"]
    unit = "" if entry["measure"] == BITS_PER_BYTE else f" ({title(entry['measure'])})"
    yield f"{held_out[0][1]:.3f} to {held_out[-1][1]:.3f}{unit}" if held_out else "-"
    yield f"{entry['bytes_seen'] / 1e6:.2f}"
    yield f"{entry['bytes_per_second'] / 1e3:.1f}"
    ranks = entry.get("zero3")
    yield f"{ranks['loss'][0]:.3f} to {ranks['loss'][1]:.3f} ({ranks['seconds']:.0f} s)" if ranks else "-"


def _made_with(entries: dict[str, Entry]) -> Iterator[str]:
    """Machines and commits, each with its models."""
    of: dict[str, list[str]] = {}
    for name, entry in entries.items():
        machine = entry["machine"]
        text = (
            f"{entry['minutes']:g} minutes of steps on {', '.join(entry['text'])}; {machine['device']}, "
            f"{machine['threads']} threads, commit {machine['commit']}, torch {machine['packages']['torch']}"
        )
        of.setdefault(text, []).append(name)
    for text, names in of.items():
        yield f"{text}: {', '.join(f'`{name}`' for name in names)}." if len(of) > 1 else f"{text}."


def draw(entries: dict[str, Entry], path: Path) -> None:
    """Held-out bits per byte over the text seen, of the models that have them, as a PNG."""
    figure = Figure(figsize=(9, 5.5), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colours = colormaps["tab20"]
    scored = (item for item in entries.items() if item[1]["held_out"] and item[1]["measure"] == BITS_PER_BYTE)
    ordered = sorted(scored, key=lambda item: item[1]["held_out"][-1][1])
    for number, (name, entry) in enumerate(ordered):
        seen, bits = zip(*entry["held_out"], strict=True)
        label = f"{name}: {bits[-1]:.3f}"
        axes.plot(seen, bits, marker="o", markersize=2.5, linewidth=1.3, color=colours(number % 20), label=label)
    axes.set_xlabel("text seen, bytes")
    axes.set_ylabel("held-out bits per byte")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    if ordered:
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path)
