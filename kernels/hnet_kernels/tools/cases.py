"""Every `Case` of the package, and one run of a case, forward and backward."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hnet_kernels
from hnet_kernels.case import Case

Run = Callable[..., Tensor | tuple[Tensor, ...]]


def discover(ops: Sequence[str] | None = None) -> list[tuple[str, Case]]:
    """(op folder, case) of every `hnet_kernels/<op>/case.py`, or of those in `ops`, which name folders or cases.

    Raises:
        ValueError: a name in `ops` is neither.
    """
    folders = sorted(path.parent.name for path in Path(hnet_kernels.__file__).parent.glob("*/case.py"))
    cases = [(op, case) for op in folders for case in importlib.import_module(f"hnet_kernels.{op}.case").CASES]
    if ops is None:
        return cases
    known = {op for op, _ in cases} | {case.name for _, case in cases}
    if unknown := [name for name in ops if name not in known]:
        raise ValueError(f"no op or case {', '.join(map(repr, unknown))}; there are: {', '.join(sorted(known))}")
    return [(op, case) for op, case in cases if op in ops or case.name in ops]


def leaves(inputs: Mapping[str, Any]) -> list[Tensor]:
    """The inputs that get a gradient."""
    return [value for value in inputs.values() if isinstance(value, Tensor) and value.requires_grad]


def differentiable(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The outputs that a gradient flows back from."""
    every = (outputs,) if isinstance(outputs, Tensor) else outputs
    return tuple(out for out in every if out.requires_grad)


def ones(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """A gradient for every output, laid out as the output is."""
    return [torch.ones_like(out, memory_format=torch.contiguous_format) for out in outputs]


def backward(outputs: tuple[Tensor, ...], inputs: Mapping[str, Any], grads: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of `leaves(inputs)`; the graph is kept, so that it can be called again."""
    return list(
        torch.autograd.grad(outputs, leaves(inputs), grads, retain_graph=True, materialize_grads=True)
        if outputs and leaves(inputs)
        else ()
    )


def run_both(run: Run, inputs: Mapping[str, Any]) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """The differentiable outputs, and the gradients of the inputs under output gradients of one."""
    outputs = differentiable(run(**inputs))
    return outputs, backward(outputs, inputs, ones(outputs))
