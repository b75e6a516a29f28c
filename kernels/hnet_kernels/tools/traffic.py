"""Bytes that an op loads and stores, counted while its kernels run in Triton's interpreter.

Masks are respected, an address that is loaded twice counts twice, and an atomic operation is a load and a store. What
PyTorch operations between the kernels read and write counts too, so nothing hides outside them. The process must have
begun with TRITON_INTERPRET=1. `python -m hnet_kernels.tools.traffic` prints a table.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import triton
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

from hnet_kernels.case import Case, Sizes
from hnet_kernels.dispatch import backend
from hnet_kernels.tools.cases import backward, differentiable, discover, ones
from hnet_kernels.tools.document import replace_table

ALLOWED = 1.15
"""Times the floor."""
KERNELS_ALONE = frozenset({"chunk_with_residual"})
"""Cases whose floor leaves out the matrix products of a library, so that PyTorch operations are left out too."""
NO_FLOOR_YET = frozenset({"hash_ngram", "offset_linear"})
"""Cases that are counted and shown, but may move more than `ALLOWED`: docs/kernels.md says why."""
LEAST_CHUNKS = {"ema": 1024, "ema_any": 1024}
"""A tile of 128 rows also reads rows of the tile before it, which a count over one or two tiles would not show."""


@dataclass
class Bytes:
    """Loaded and stored, by kernel or PyTorch operation."""

    loaded: Counter[str] = field(default_factory=Counter)
    stored: Counter[str] = field(default_factory=Counter)

    def total(self, kernels_alone: bool = False) -> int:
        """Loaded and stored together."""
        entries = [*self.loaded.items(), *self.stored.items()]
        return sum(moved for name, moved in entries if not (kernels_alone and name.startswith("aten.")))


def _element_bytes(pointers: Any) -> int:
    return max(1, pointers.get_element_ty().primitive_bitwidth // 8)


class _PatchedInterpreter:
    """Counts what interpreted kernels load and store, by the name of the kernel that was launched."""

    def __init__(self, bytes: Bytes) -> None:
        self.bytes = bytes
        self.kernel = ""

    def _masked_load(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load(builder: Any, pointers: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self.bytes.loaded[self.kernel] += int(np.count_nonzero(mask.data)) * _element_bytes(pointers)
            return original(builder, pointers, mask, *rest, **named)

        return load

    def _masked_store(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
            self.bytes.stored[self.kernel] += int(np.count_nonzero(mask.data)) * _element_bytes(pointers)
            return original(builder, pointers, value, mask, *rest, **named)

        return store

    def _atomic(self, moved: int) -> None:
        self.bytes.loaded[self.kernel] += moved
        self.bytes.stored[self.kernel] += moved

    def _atomic_rmw(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(builder: Any, kind: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self._atomic(int(np.count_nonzero(mask.data)) * _element_bytes(pointers))
            return original(builder, kind, pointers, value, mask, *rest)

        return update

    def _atomic_cas(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def exchange(builder: Any, pointers: Any, *rest: Any) -> Any:
            self._atomic(pointers.data.size * _element_bytes(pointers))
            return original(builder, pointers, *rest)

        return exchange

    def _launch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def launch(executor: Any, *args: Any, **kwargs: Any) -> Any:
            self.kernel = executor.fn.__name__
            try:
                return original(executor, *args, **kwargs)
            finally:
                self.kernel = ""

        return launch

    @contextmanager
    def patched(self) -> Iterator[None]:
        changes = [
            (InterpreterBuilder, "create_masked_load", self._masked_load),
            (InterpreterBuilder, "create_masked_store", self._masked_store),
            (InterpreterBuilder, "create_atomic_rmw", self._atomic_rmw),
            (InterpreterBuilder, "create_atomic_cas", self._atomic_cas),
            (GridExecutor, "__call__", self._launch),
        ]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
        for (owner, name, change), (_, _, original) in zip(changes, before, strict=True):
            setattr(owner, name, change(original))
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)


class _CountedOperations(TorchDispatchMode):
    """Counts the inputs and outputs of PyTorch operations, within the custom ops of this package too."""

    def __init__(self, bytes: Bytes, interpreter: _PatchedInterpreter) -> None:
        super().__init__()
        self.bytes = bytes
        self.interpreter = interpreter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "hnet":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs)
        out = func(*args, **kwargs)
        # What the interpreter itself does with tensors is no work of the op.
        if not self.interpreter.kernel and not func.is_view and "empty" not in str(func) and "detach" not in str(func):
            name = f"aten.{func._schema.name.partition('::')[2]}"
            # An operation that makes a constant looks at the shape of its input alone.
            makes_constant = any(word in name for word in ("zeros", "ones", "full"))
            self.bytes.loaded[name] += 0 if makes_constant else _tensor_bytes((args, kwargs))
            self.bytes.stored[name] += _tensor_bytes(out)
        return out


def _tensor_bytes(tree: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


@contextmanager
def counted() -> Iterator[Bytes]:
    """Within the block, the bytes that kernels and PyTorch operations move.

    Raises:
        RuntimeError: the process did not begin with TRITON_INTERPRET=1.
    """
    if not triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is not set: bytes are counted in interpreted kernels only")
    bytes = Bytes()
    interpreter = _PatchedInterpreter(bytes)
    with interpreter.patched(), _CountedOperations(bytes, interpreter):
        yield bytes


@dataclass(frozen=True)
class Traffic:
    """Of one case: what its two passes moved, and the least that they must."""

    name: str
    forward: Bytes
    backward: Bytes
    floor: tuple[int, int]

    @property
    def passes(self) -> tuple[Bytes, Bytes]:
        return self.forward, self.backward

    @property
    def ratios(self) -> tuple[float, float]:
        """Forward and backward bytes over the floor; NaN where nothing must be moved."""
        moved = [bytes.total(self.name in KERNELS_ALONE) for bytes in self.passes]
        forward, backward = (m / f if f else math.nan for m, f in zip(moved, self.floor, strict=True))
        return forward, backward

    def is_too_much(self) -> bool:
        """Whether a pass moves more than is allowed."""
        return self.name not in NO_FLOOR_YET and any(ratio > ALLOWED for ratio in self.ratios)


def count(case: Case, sizes: Sizes) -> Traffic:
    """Run a case's kernels forward and backward and count."""
    inputs = case.inputs(sizes)
    with backend("triton"):
        with counted() as forward:
            outputs = differentiable(case.run(**inputs))
        grads = ones(outputs)
        with counted() as back:
            backward(outputs, inputs, grads)
    return Traffic(case.name, forward, back, case.floor(sizes))


def markdown(every: Sequence[Traffic]) -> str:
    """Bytes over the floor, and what moves them."""
    lines = ["| case | forward / floor | backward / floor | kernels |", "|---|---|---|---|"]
    for traffic in every:
        names = dict.fromkeys([*traffic.forward.loaded, *traffic.backward.loaded])
        kernels = ", ".join(f"`{name}`" for name in names if not name.startswith("aten."))
        cells = ["-" if math.isnan(ratio) else f"{ratio:.3f}" for ratio in traffic.ratios]
        lines.append(f"| {traffic.name} | {cells[0]} | {cells[1]} | {kernels} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 when an op moves too much."""
    parser = argparse.ArgumentParser("python -m hnet_kernels.tools.traffic", description=__doc__.partition("\n")[0])
    parser.add_argument("--ops", help="op folders or case names, separated by commas; default: all")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=256, help="of five units each (default: %(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="renew the table in docs/kernels.md")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the ratios, forward and backward, by case")
    parser.add_argument("--details", action="store_true", help="bytes by kernel and PyTorch operation")
    arguments = parser.parse_args(argv)
    every = []
    for _, case in discover(arguments.ops and arguments.ops.split(",")):
        chunks = max(arguments.chunks, LEAST_CHUNKS.get(case.name, 0))
        every.append(count(case, Sizes(5 * chunks, chunks, arguments.width, num_documents=4)))
    print(markdown(every))
    if arguments.markdown:
        replace_table(arguments.markdown, "bytes", markdown(every))
    if arguments.json:
        arguments.json.write_text(json.dumps({traffic.name: traffic.ratios for traffic in every}, indent=1) + "\n")
    for traffic in every if arguments.details else ():
        for label, bytes, floor in zip(("forward", "backward"), traffic.passes, traffic.floor, strict=True):
            print(f"{traffic.name} {label}: floor {floor}, loaded {dict(bytes.loaded)}, stored {dict(bytes.stored)}")
    return int(any(traffic.is_too_much() for traffic in every))


if __name__ == "__main__":
    sys.exit(main())
