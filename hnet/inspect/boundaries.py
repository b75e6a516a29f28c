"""Where a model puts its boundaries on a text, as plain data.

A boundary stands on the first byte of a chunk. Stage 0 cuts bytes into chunks, stage 1 cuts those chunks into
longer ones, and so on, so every boundary of a stage is one of each stage outside it.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hnet.data.tokenizer import is_of_bytes
from hnet.errors import ConfigError, DataError
from hnet.segmentation.rule import BOS

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel

WINDOW_BYTES = 8192
"""Longest piece of text that is read at once; each piece is its own document."""


@dataclass(frozen=True, slots=True)
class StageBoundaries:
    """Decisions of one chunking stage. U units: bytes at stage 0, chunks of the stage outside elsewhere."""

    positions: tuple[int, ...]
    """(U,) first byte of each unit, ascending, from 0."""
    probabilities: tuple[float, ...]
    """(U,) boundary probability of each unit."""
    starts: tuple[int, ...]
    """First byte of each chunk, ascending, from 0: the positions of the units that are boundaries."""

    @property
    def num_chunks(self) -> int:
        return len(self.starts)

    def probability_at(self, position: int) -> float | None:
        """Boundary probability of the unit that begins at a byte; None where no unit of this stage begins."""
        index = bisect_right(self.positions, position) - 1
        return self.probabilities[index] if self.positions[index] == position else None

    def chunk_at(self, position: int) -> int:
        """Index of the chunk that a byte belongs to."""
        return bisect_right(self.starts, position) - 1


@dataclass(frozen=True, slots=True)
class Boundaries:
    """Boundaries of every chunking stage on one text."""

    data: bytes
    stages: tuple[StageBoundaries, ...]
    """Outermost first, that is, shortest chunks first."""

    def bytes_per_chunk(self) -> tuple[float, ...]:
        """Mean bytes per chunk of every stage."""
        return tuple(len(self.data) / stage.num_chunks for stage in self.stages)


def collect_boundaries(model: "LanguageModel", data: bytes, *, window_bytes: int = WINDOW_BYTES) -> Boundaries:
    """Boundaries of a byte model on a text, each piece of at most `window_bytes` read as one document after BOS.

    BOS takes part in the model's decisions and is left out of the result, as are separators of chunks, whose chunk
    begins at the byte after them; the first byte of each piece always begins a chunk.

    Raises:
        DataError: the text is empty.
        ConfigError: the model has no chunking stage, or does not read bytes.
    """
    if not data:
        raise DataError("the text to inspect is empty: give at least one byte")
    if len(model.config.stages) < 2:
        raise ConfigError("the model has one stage and makes no chunks: inspect a model with at least two stages")
    if not is_of_bytes(model.config.vocab_size):
        raise ConfigError(f"the model reads {model.config.vocab_size} tokens: only byte models can be inspected")
    stages: list[_Decisions] = [_Decisions() for _ in model.config.stages[:-1]]
    start = 0
    while start < len(data):
        stop = _cut(data, start, window_bytes)
        _collect_piece(model, data, start, stop, stages)
        start = stop
    return Boundaries(data, tuple(stage.frozen() for stage in stages))


class _Decisions:
    """A stage's result while it grows piece by piece."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self.probabilities: list[float] = []
        self.starts: list[int] = []

    def frozen(self) -> StageBoundaries:
        return StageBoundaries(tuple(self.positions), tuple(self.probabilities), tuple(self.starts))


def _cut(data: bytes, start: int, window_bytes: int) -> int:
    """End of the piece from `start`: not inside a UTF-8 character where that can be helped."""
    stop = min(start + window_bytes, len(data))
    for candidate in range(stop, max(stop - 4, start), -1):
        if candidate == len(data) or data[candidate] & 0xC0 != 0x80:
            return candidate
    return stop


def _collect_piece(model: "LanguageModel", data: bytes, start: int, stop: int, stages: list[_Decisions]) -> None:
    device = next(model.parameters()).device
    laid_out = model.layout().lay_out(np.array([BOS, *data[start:stop]], dtype=np.int64))
    input_ids = torch.from_numpy(laid_out.ids).to(device)
    cu_seqlens = torch.tensor([0, len(input_ids)], dtype=torch.int32, device=device)
    marks = None if laid_out.marks is None else torch.from_numpy(laid_out.marks).to(device)
    with torch.inference_mode():
        output = model(input_ids, cu_seqlens=cu_seqlens, marks=marks)
    first_units = _with_separators(laid_out.source)
    units = list(range(start - 1, stop))
    for stage, decisions in zip(output.stages, stages, strict=True):
        # A unit of text has the separators before it: what they begin, it begins.
        probabilities = np.maximum.reduceat(stage.boundary_prob.float().cpu().numpy(), first_units).tolist()
        mask = np.logical_or.reduceat(stage.boundary_mask.cpu().numpy(), first_units).tolist()
        chunks = [unit for unit, boundary in zip(units, mask, strict=True) if boundary]
        _append(decisions, units, probabilities, chunks, start)
        units, first_units = chunks, np.arange(len(chunks))


def _with_separators(source: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) for each unit of text the index of the model unit that is the first of the separators before it, or it."""
    text = np.flatnonzero(source >= 0)
    return np.concatenate([[0], text[:-1] + 1])


def _append(decisions: _Decisions, units: list[int], probabilities: list[float], chunks: list[int], start: int) -> None:
    """Adds one piece without the unit of BOS, whose chunk then begins on the first byte."""
    bos_is_alone = len(units) > 1 and units[1] == start
    decisions.positions += units[1:] if bos_is_alone else [start, *units[1:]]
    decisions.probabilities += probabilities[1:] if bos_is_alone else probabilities
    decisions.starts += [start, *(chunk for chunk in chunks if chunk > start)]
