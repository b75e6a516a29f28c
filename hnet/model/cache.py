"""Inference state: what each part keeps per row (document) between prefill and one-unit steps.

Every tensor's first axis is the row. `rows` (R,) int64 names the rows that a step touches, so rows may
reach their chunk boundaries at different times and inner stages run only for those that did.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


class AttentionCache:
    """Rotated keys and values, `(rows, capacity, heads, head_dim)`, and how many units each row has seen.

    With a window the buffer is a ring of window + 1 slots; without one it doubles when full.
    """

    def __init__(self, num_rows: int, window: int) -> None:
        self.window = window
        self.num_rows = num_rows
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.lengths: Tensor | None = None

    def _reserve(self, capacity: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.keys is None or self.values is None or self.lengths is None:
            shape = (self.num_rows, capacity, *like.shape[1:])
            self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
            self.lengths = torch.zeros(self.num_rows, dtype=torch.long, device=like.device)
        elif self.keys.shape[1] < capacity:
            extra = max(capacity, 2 * self.keys.shape[1]) - self.keys.shape[1]
            self.keys = torch.cat([self.keys, self.keys.new_zeros(self.num_rows, extra, *like.shape[1:])], 1)
            self.values = torch.cat([self.values, self.values.new_zeros(self.num_rows, extra, *like.shape[1:])], 1)
        return self.keys, self.values, self.lengths

    def write(self, keys: Tensor, values: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Store units (T, heads, head_dim) of `rows` (T,) at their `positions` (T,), which must be the next ones."""
        if self.window >= 0:
            capacity = self.window + 1
            last = torch.zeros(self.num_rows, dtype=torch.long, device=rows.device)
            last.scatter_reduce_(0, rows, positions, "amax")
            kept = positions > last[rows] - capacity
            keys, values, rows, positions = keys[kept], values[kept], rows[kept], positions[kept]
            slots = positions % capacity
        else:
            capacity = int(positions.max()) + 1
            slots = positions
        all_keys, all_values, lengths = self._reserve(capacity, keys)
        all_keys[rows, slots] = keys
        all_values[rows, slots] = values
        lengths.scatter_reduce_(0, rows, positions + 1, "amax")

    def reset(self, rows: Tensor) -> None:
        """Forget what `rows` (R,) have seen."""
        if self.lengths is not None:
            self.lengths[rows] = 0

    def next_positions(self, rows: Tensor) -> Tensor:
        """Position (R,) of the next unit of each row."""
        return torch.zeros_like(rows) if self.lengths is None else self.lengths[rows]

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values (R, C, heads, head_dim) of `rows` and which slots are filled (R, C) bool."""
        if self.keys is None or self.values is None or self.lengths is None:
            raise RuntimeError("read before write: prefill or write this cache first")
        filled = self.lengths[rows].clamp(max=self.keys.shape[1])
        longest = int(filled.max())
        slots = torch.arange(longest, device=rows.device)
        return self.keys[rows, :longest], self.values[rows, :longest], slots < filled[:, None]


class StateCache:
    """Named state tensors with the row as first axis."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.tensors: dict[str, Tensor] = {}
        self._written: dict[str, Tensor] = {}

    def write(self, name: str, value: Tensor, rows: Tensor) -> None:
        """Store `value` (R, ...) for `rows` (R,)."""
        if name not in self.tensors:
            self.tensors[name] = value.new_zeros(self.num_rows, *value.shape[1:])
            self._written[name] = torch.zeros(self.num_rows, dtype=torch.bool, device=value.device)
        self.tensors[name][rows] = value
        self._written[name][rows] = True

    def read(self, name: str, rows: Tensor, default: Tensor | None = None) -> Tensor:
        """The state (R, ...) of `rows` (R,); `default` (R, ...) for those that have none.

        Raises KeyError when nothing was ever written under `name` and there is no default.
        """
        if default is None:
            return self.tensors[name][rows]
        if name not in self.tensors:
            return default
        written = self._written[name][rows]
        state = self.tensors[name][rows]
        return state.where(written.view(-1, *[1] * (state.dim() - 1)), default.to(state.dtype))

    def reset(self, rows: Tensor) -> None:
        """Forget the state of `rows` (R,)."""
        for name, written in self._written.items():
            written[rows] = False
            self.tensors[name][rows] = 0


class OpenChunk:
    """Units of every row whose chunk is not known to be whole yet."""

    def __init__(self, num_rows: int) -> None:
        self._units: list[list[Tensor]] = [[] for _ in range(num_rows)]

    def extend(self, units: Tensor, lengths: Tensor, rows: Tensor) -> None:
        """`lengths` (R,) of `units` (sum, D) more for each of `rows` (R,)."""
        for row, piece in zip(rows.tolist(), units.split(lengths.tolist()), strict=True):
            self._units[row].extend(piece.unbind(0))

    def take(self, rows: Tensor, behind: Tensor) -> tuple[Tensor, Tensor]:
        """Chunks of `rows` (R,) that are whole now: units (sum, D) and cu_seqlens (R + 1,) int32.

        The last `behind` (R,) units of a row belong to its next chunk, and stay.
        """
        taken = []
        for row, num_left in zip(rows.tolist(), behind.tolist(), strict=True):
            units = self._units[row]
            end = len(units) - num_left
            taken.append(torch.stack(units[:end]))
            del units[:end]
        lengths = torch.tensor([0, *map(len, taken)], device=rows.device)
        return torch.cat(taken), lengths.cumsum(0).int()


LayerCache = AttentionCache | StateCache


@dataclass
class StageCache:
    """State of one stage and of the stages inside it."""

    boundary: StateCache
    unpool: StateCache
    place: StateCache
    """`units` (R,) int64 it has read, the last one's `position` (R,) in its chunk, and whole `chunks` (R,)."""
    open: OpenChunk
    encoder: list[LayerCache] = field(default_factory=list)
    decoder: list[LayerCache] = field(default_factory=list)
    main: list[LayerCache] = field(default_factory=list)
    inner: "StageCache | None" = None

    def count_chunks(self, rows: Tensor, num_units: Tensor) -> tuple[Tensor, Tensor]:
        """Units and chunks (R,) of `rows` (R,) before a chunk that began `num_units` (R,) ago, and is whole now."""
        number = self.place.read("chunks", rows, torch.zeros_like(rows))
        self.place.write("chunks", number + 1, rows)
        return self.place.read("units", rows) - num_units, number


@dataclass
class ModelCache:
    """State of a whole model for `num_rows` documents."""

    num_rows: int
    stage: StageCache
    embedding: StateCache
