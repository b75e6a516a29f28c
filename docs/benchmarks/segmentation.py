"""How fast the rules divide text, on one thread.

    python docs/benchmarks/segmentation.py

prints a table and writes it to `segmentation.md` beside this file: MB/s of whole sequences, of a layout with
separators, and of the tracker that generation uses, on the sample texts that come with the package.
"""

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

import hnet.data
from hnet.bench.machine import describe_machine
from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.layout import Layout
from hnet.segmentation.rule import Ids, Rule, chunk_starts
from hnet.segmentation.space_like import SpaceLikeRule
from hnet.segmentation.words import WordsRule

SEQUENCE = 8192
NUM_BYTES = 2_000_000
SAMPLE = Path(hnet.data.__file__).parent / "sample"
TEXTS = {"English": "pride_and_prejudice.en.txt", "Chinese": "shijing.zh.txt", "C": "sqlite_btree.c.txt"}
RULES: dict[str, Rule] = {
    "fixed, 8 bytes": FixedRule(8),
    "space-like": SpaceLikeRule(),
    "words, white space": WordsRule("white_space", max_bytes=100),
    "words, Unicode": WordsRule("unicode", max_bytes=100),
}


def _rate(run: Callable[[], object], num_bytes: int, repeats: int = 5) -> float:
    """MB/s, median."""
    seconds = []
    for _ in range(repeats):
        start = perf_counter()
        run()
        seconds.append(perf_counter() - start)
    return num_bytes / 1e6 / median(seconds)


def _sequences(name: str) -> list[Ids]:
    text = np.frombuffer((SAMPLE / TEXTS[name]).read_bytes(), dtype=np.uint8)
    ids = np.resize(text, NUM_BYTES).astype(np.int64)
    return [ids[start : start + SEQUENCE] for start in range(0, NUM_BYTES, SEQUENCE)]


def _row(rule_name: str, text_name: str) -> str:
    rule, sequences = RULES[rule_name], _sequences(text_name)
    layout = Layout(rule, (253,))
    num_chunks = sum(np.count_nonzero(chunk_starts(rule.mark(ids)) < len(ids)) for ids in sequences)
    units = sequences[0].tolist()

    def push_all() -> None:
        tracker = rule.tracker()
        for unit in units:
            tracker.push(unit)

    rates = [
        _rate(lambda: [rule.mark(ids) for ids in sequences], NUM_BYTES),
        _rate(lambda: [layout.lay_out(ids) for ids in sequences], NUM_BYTES),
        _rate(push_all, len(units)),
    ]
    cells = [
        rule_name,
        text_name,
        f"{NUM_BYTES / num_chunks:.2f}",
        *(f"{rate:,.{0 if rate >= 10 else 1}f}" for rate in rates),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Every rule on every text."""
    machine = describe_machine(torch.device("cpu"))
    lines = [
        "# How fast rules divide text",
        "",
        f"{machine['device']}, one thread, sequences of {SEQUENCE:,} bytes; numpy {np.__version__}, commit "
        f"{machine['commit']}. Made by `segmentation.py`.",
        "",
        "| rule | text | bytes per chunk | MB/s | MB/s with separators | MB/s unit by unit |",
        "|---|---|--:|--:|--:|--:|",
        *(_row(rule, text) for rule in RULES for text in TEXTS),
    ]
    report = "\n".join(lines) + "\n"
    print(report)
    Path(__file__).with_suffix(".md").write_text(report)


if __name__ == "__main__":
    main()
