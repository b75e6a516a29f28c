"""Ragged packs, comparison of two implementations with their gradients, and settings shared by the tests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

RAGGED = [[1], [5], [1, 1, 1], [64, 64], [100, 1, 63, 130, 6], [17] * 9, [33, 256, 2], [31, 1, 97]]
every_pack = pytest.mark.parametrize("lengths", RAGGED, ids=lambda lengths: "-".join(map(str, lengths)))
both_precisions = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def bounds(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def results(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor | None) -> list[Tensor]:
    """The output and the gradients of every input under a random (or the given) output gradient."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    out.backward(torch.ones_like(out) if grad is None else grad.to(out.dtype))
    return [out.detach(), *(t.grad if t.grad is not None else torch.zeros_like(t) for t in leaves)]


def assert_same(
    actual: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    tolerance: float | None = None,
) -> None:
    """Compare outputs and gradients; the expected ones are always computed in float64.

    An error is measured against the largest element of its tensor, or against a tenth of the largest
    of all where a gradient nearly cancels.
    """
    with torch.no_grad():
        shape = expected(*inputs).shape
    grad = torch.randn(shape, dtype=torch.float64)
    reference = results(expected, inputs, grad)
    measured = results(actual, [t.to(dtype) for t in inputs], grad)
    floor = 0.1 * max(float(t.abs().max()) for t in reference)
    for index, (want, got) in enumerate(zip(reference, measured, strict=True)):
        assert got.shape == want.shape and got.dtype == dtype
        error = float((got.double() - want).abs().max()) / max(float(want.abs().max()), floor)
        assert error <= (tolerance or TOLERANCE[dtype]), f"result {index} is off by {error:.1e}"


@contextmanager
def poisoned_empty() -> Iterator[None]:
    """Within the block, memory that is allocated without a value holds NaN: what a kernel leaves unwritten shows."""
    empty, new_empty, empty_like = torch.empty, Tensor.new_empty, torch.empty_like

    def poison(t: Tensor) -> Tensor:
        return t.fill_(float("nan")) if t.is_floating_point() else t

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
        patch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
        patch.setattr(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))
        yield
