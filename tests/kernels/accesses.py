"""What Triton's interpreter lets pass: accesses outside a kernel's tensors, and programs of one launch that meet.

The interpreter reads and writes raw memory and runs one program after the other, so neither fails there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from torch import Tensor
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

NOBODY, SEVERAL = -1, -2


@dataclass
class Region:
    """Bytes that a kernel is given: which program has written and which has read each."""

    start: int
    writer: np.ndarray
    reader: np.ndarray


class Watch:
    """Faults of every launch, as sentences."""

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.accesses = 0
        self.regions: list[Region] = []
        self.kernel, self.program, self.grid = "", 0, (1, 1, 1)

    def begin(self, kernel: str, tensors: list[Tensor]) -> None:
        self.kernel, bounds = kernel, []
        for t in sorted((t for t in tensors if t.numel()), key=Tensor.data_ptr):
            last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
            start, stop = t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()
            if bounds and start <= bounds[-1][1]:
                bounds[-1][1] = max(bounds[-1][1], stop)
            else:
                bounds.append([start, stop])
        self.regions = [Region(a, np.full(b - a, NOBODY), np.full(b - a, NOBODY)) for a, b in bounds]

    def access(self, pointers: Any, mask: Any, stores: bool) -> None:
        addresses = np.asarray(pointers.data).astype(np.int64)
        addresses = addresses[np.broadcast_to(np.asarray(mask.data).astype(bool), addresses.shape)]
        self.accesses += 1
        inside = 0
        for region in self.regions:
            at = addresses - region.start
            at = at[(at >= 0) & (at < region.writer.size)]
            inside += at.size
            self._meet(region, at, stores)
        if inside < addresses.size:
            self.faults.add(f"{self.kernel} {'stores' if stores else 'loads'} outside its tensors")

    def _meet(self, region: Region, at: np.ndarray, stores: bool) -> None:
        others = (NOBODY, self.program)
        if not np.isin(region.writer[at], others).all():
            self.faults.add(f"{self.kernel} {'stores' if stores else 'loads'} what another program stores")
        if not stores:
            region.reader[at] = np.where(np.isin(region.reader[at], others), self.program, SEVERAL)
            return
        if not np.isin(region.reader[at], others).all():
            self.faults.add(f"{self.kernel} stores what another program loads")
        if np.unique(at).size < at.size:
            self.faults.add(f"{self.kernel} stores to one address twice at once")
        region.writer[at] = self.program


@contextmanager
def watched() -> Iterator[Watch]:
    """Within the block every launch is looked at."""
    watch = Watch()
    begin, grid, place = GridExecutor._init_args_hst, InterpreterBuilder.set_grid_dim, InterpreterBuilder.set_grid_idx
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def launched(self: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = begin(self, args, kwargs)
        watch.begin(self.fn.__name__, [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)])
        return args, kwargs

    def spanned(self: Any, *sizes: int) -> Any:
        watch.grid = sizes
        return grid(self, *sizes)

    def placed(self: Any, x: int, y: int, z: int) -> Any:
        watch.program = (x * watch.grid[1] + y) * watch.grid[2] + z
        return place(self, x, y, z)

    def loaded(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        watch.access(pointers, mask, stores=False)
        return load(self, pointers, mask, *rest)

    def stored(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.access(pointers, mask, stores=True)
        return store(self, pointers, value, mask, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GridExecutor, "_init_args_hst", launched)
        patch.setattr(InterpreterBuilder, "set_grid_dim", spanned)
        patch.setattr(InterpreterBuilder, "set_grid_idx", placed)
        patch.setattr(InterpreterBuilder, "create_masked_load", loaded)
        patch.setattr(InterpreterBuilder, "create_masked_store", stored)
        yield watch
