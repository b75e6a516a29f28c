"""The threshold of an entropy boundary that gives a wanted number of bytes per chunk on a text."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hnet.data.config import DataConfig
from hnet.data.validation import validation_batches
from hnet.errors import ConfigError
from hnet.model.config import ModelConfig
from hnet.model.config.entropy import EntropyConfig
from hnet.segmentation.entropy import EntropyRule

SHOWN = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Bytes per chunk in the table besides the wanted ones."""
_RANGE = (-6.0, 6.0)
"""Nats: no entropy of 260 symbols, and no difference of two, is outside."""
_THRESHOLD = re.compile(r"^(\s*(?:-\s*)?threshold:\s*)(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Entropies:
    """What a scorer says of a text, piece by piece as training would read it."""

    pieces: tuple[NDArray[np.float32], ...]

    def bytes_per_chunk(self, rule: EntropyRule) -> float:
        """Units per chunk, BOS and EOS included, as in the metrics of a run."""
        chunks = sum(1 + np.count_nonzero(rule.mark_entropies(piece)[:-1]) for piece in self.pieces)
        return sum(map(len, self.pieces)) / chunks


def measure(rule: EntropyRule, data: DataConfig) -> Entropies:
    """Entropies of `data.validation`. Raises DataError if it cannot be read or is empty."""
    pieces = []
    for batch in validation_batches(data):
        ends = batch.cu_seqlens.tolist()
        ids = batch.input_ids.numpy()
        pieces += [rule.scorer.entropies(ids[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    return Entropies(tuple(pieces))


def find_threshold(rule: EntropyRule, entropies: Entropies, bytes_per_chunk: float) -> float:
    """The threshold in nats, to 1e-4, at which chunks are as near as can be to `bytes_per_chunk` and no shorter.

    Raises ConfigError if no threshold makes chunks that short or that long.
    """
    low, high = _RANGE
    shortest, longest = (entropies.bytes_per_chunk(replace(rule, threshold=end)) for end in _RANGE)
    if not shortest <= bytes_per_chunk <= longest:
        raise ConfigError(
            f"bytes_per_chunk {bytes_per_chunk} is out of reach on this text: method {rule.method} with max_units "
            f"{rule.max_units} gives {shortest:.2f} to {longest:.2f}"
        )
    while high - low > 1e-4:
        middle = (low + high) / 2
        if entropies.bytes_per_chunk(replace(rule, threshold=middle)) < bytes_per_chunk:
            low = middle
        else:
            high = middle
    return round(high, 4)


def entropy_boundary(config: ModelConfig, scorer: str) -> EntropyConfig:
    """The model's boundary, with the weights of `scorer`. Raises ConfigError for a model of other boundaries."""
    boundary = config.stages[0].boundary
    if config.stages[0].is_innermost or not isinstance(boundary, EntropyConfig):
        raise ConfigError("the model's boundary is not of type entropy, so it has no threshold to calibrate")
    return boundary.model_copy(update={"scorer_weights": scorer})


def write_threshold(file: Path, threshold: float) -> None:
    """Change the one `threshold:` in a model's YAML file, and nothing else. Raises ConfigError if there is not one."""
    text = file.read_text()
    if len(_THRESHOLD.findall(text)) != 1:
        raise ConfigError(f"{file} does not have one line `threshold: ...`; set it to {threshold} by hand")
    file.write_text(_THRESHOLD.sub(rf"\g<1>{threshold}", text))


def print_table(rule: EntropyRule, entropies: Entropies, wanted: float, threshold: float) -> None:
    """What thresholds give on the text, the `threshold` for `wanted` bytes per chunk in bold."""
    units = sum(map(len, entropies.pieces))
    table = Table(title=f"{rule.method} on {units:,} bytes", title_justify="left")
    for column in ("threshold (nats)", "bytes per chunk"):
        table.add_column(column, justify="right")
    shortest, longest = (entropies.bytes_per_chunk(replace(rule, threshold=end)) for end in _RANGE)
    shown = {find_threshold(rule, entropies, target) for target in SHOWN if shortest <= target <= longest}
    for value in sorted({threshold, *shown}):
        reached = entropies.bytes_per_chunk(replace(rule, threshold=value))
        table.add_row(f"{value:.4f}", f"{reached:.2f}", style="bold" if value == threshold else "")
    Console().print(table)
    print(f"threshold {threshold} for {wanted} bytes per chunk")
