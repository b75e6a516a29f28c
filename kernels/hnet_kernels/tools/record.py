"""Kernel launches of a case, recorded instead of executed: what Triton's JIT would compile for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from hnet_kernels.case import Case, Sizes
from hnet_kernels.dispatch import backend
from hnet_kernels.tools.cases import run_both


def parse_target(name: str) -> GPUTarget:
    """`cuda:90` or `hip:gfx942`.

    Raises:
        ValueError: it is neither.
    """
    kind, _, architecture = name.partition(":")
    if kind == "cuda" and architecture.isdigit():
        return GPUTarget("cuda", int(architecture), 32)
    if kind == "hip" and architecture.startswith("gfx"):
        return GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)
    raise ValueError(f"no target {name!r}; give cuda:<capability>, such as cuda:90, or hip:<gfx name>")


@dataclass
class Launch:
    """One compilation that a launch asks for on one target."""

    op: str
    kernel: str
    target: str
    source: ASTSource
    options: dict[str, Any]
    row_arguments: frozenset[str]
    """Pointers to tensors of D-wide rows."""
    shapes: list[str] = field(default_factory=list)
    """Shape classes whose launches ask for this very compilation."""

    @property
    def key(self) -> str:
        """Equal for equal compilations."""
        source = self.source
        parts = (source.signature, source.constants, source.attrs, sorted(map(str, self.options.items())))
        return f"{self.op} {self.kernel} {self.target} {parts}"


def specialise(function: JITFunction, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    """What the JIT would compile for a call: types, constants, divisibility by 16, integers equal to 1."""
    gpu_backend = make_backend(parse_target(target))
    binder = create_function_from_signature(function.signature, function.params, gpu_backend)
    bound, specialization, options = binder(*args, **kwargs)
    options, signature, constants, attrs = function._pack_args(gpu_backend, kwargs, bound, specialization, options)
    # Small tensors are marked as shorter than 2 GiB on AMD; those of a large batch are not.
    attrs = {path: [entry for entry in entries if entry[0] == "tt.divisibility"] for path, entries in attrs.items()}
    source = ASTSource(function, signature, constants, attrs)
    return Launch("", function.fn.__name__, target, source, dict(options.__dict__), frozenset())


def points_to_rows(value: object, width: int) -> bool:
    """Whether the trailing axes of a tensor multiply to `width`: (rows, D), (rows, H, P) and so on."""
    if not isinstance(value, Tensor) or value.dim() < 2:
        return False
    trailing = 1
    for size in reversed(value.shape[1:]):
        trailing *= size
        if trailing == width:
            return True
    return False


@contextmanager
def recording(take: Callable[[JITFunction, tuple[Any, ...], dict[str, Any]], None], count: int) -> Iterator[None]:
    """Within the block launches go to `take` and run nothing.

    What they would have written is 0, and `count` in integer tensors, so that a size read from one is a size.
    """
    empty, empty_like, new_empty, run = torch.empty, torch.empty_like, Tensor.new_empty, JITFunction.run

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def make_filled(*args: Any, **kwargs: Any) -> Tensor:
            made = make(*args, **kwargs)
            return made.fill_(count if made.dtype in (torch.int32, torch.int64) else 0)

        return make_filled

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        take(self, args, kwargs)

    torch.empty, torch.empty_like = filled(empty), filled(empty_like)
    Tensor.new_empty = filled(new_empty)  # type: ignore[method-assign]
    JITFunction.run = record
    try:
        yield
    finally:
        torch.empty, torch.empty_like = empty, empty_like
        Tensor.new_empty = new_empty  # type: ignore[method-assign]
        JITFunction.run = run


def record_launches(op: str, case: Case, sizes: Sizes, targets: list[str]) -> list[Launch]:
    """The launches of a case's forward and backward pass, for every target; equal ones are one."""
    shape = f"D={sizes.width} {'bf16' if sizes.dtype == torch.bfloat16 else 'fp32'}"
    launches: dict[str, Launch] = {}

    def take(function: JITFunction, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {**dict(zip(function.arg_names, args, strict=False)), **kwargs}
        rows = frozenset(name for name, value in named.items() if points_to_rows(value, sizes.width))
        for target in targets:
            launch = specialise(function, target, args, kwargs)
            launch.op, launch.row_arguments, launch.shapes = _owner(function, op), rows, [shape]
            launches.setdefault(launch.key, launch)

    inputs = case.inputs(sizes)
    with recording(take, sizes.num_chunks), backend("triton"):
        run_both(case.run, inputs)
    return list(launches.values())


def _owner(function: JITFunction, op: str) -> str:
    """The op folder that defines a kernel, for ops use each other's; `op` for a kernel from elsewhere."""
    package, _, rest = function.module.partition(".")
    return rest.partition(".")[0] if package == "hnet_kernels" else op


def merge(launches: list[Launch]) -> list[Launch]:
    """One launch for each compilation, with the shape classes of all."""
    merged: dict[str, Launch] = {}
    for launch in launches:
        known = merged.setdefault(launch.key, launch)
        if known is not launch:
            known.shapes += [shape for shape in launch.shapes if shape not in known.shapes]
            known.row_arguments |= launch.row_arguments
    return list(merged.values())
