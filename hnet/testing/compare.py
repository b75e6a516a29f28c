"""Comparison with float64: a bound that comes from the arithmetic, not from what happens to pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Largest difference over the largest magnitude of the reference; infinite if `value` is not finite."""
    if value.shape != reference.shape:
        raise AssertionError(f"shapes differ: {tuple(value.shape)} and {tuple(reference.shape)}")
    if not bool(torch.isfinite(value).all()):
        return float("inf")
    if reference.numel() == 0:
        return 0.0
    scale = reference.double().abs().max().clamp(min=torch.finfo(torch.float64).tiny)
    return float((value.double() - reference.double()).abs().max() / scale)


def assert_close_to_fp64(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], *, tolerance: float, backward: bool = True
) -> None:
    """`function(*inputs)` in the inputs' dtypes against the same in float64, and the gradients of a random projection.

    Raises AssertionError naming the output or gradient whose relative error exceeds `tolerance`.
    """
    values = _evaluate(function, inputs, backward)
    references = _evaluate(function, [x.double() if x.is_floating_point() else x for x in inputs], backward)
    for name, value in values.items():
        error = relative_error(value, references[name])
        if error > tolerance:
            raise AssertionError(f"{name}: relative error {error:.3g} against float64, allowed {tolerance:.3g}")


def _evaluate(function: Callable[..., Tensor], inputs: Sequence[Tensor], backward: bool) -> dict[str, Tensor]:
    leaves = [x.detach().clone().requires_grad_(backward and x.is_floating_point()) for x in inputs]
    output = function(*leaves)
    results = {"output": output.detach()}
    if backward:
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
        (output * weight).sum().backward()
        for index, leaf in enumerate(leaves):
            if leaf.grad is not None:
                results[f"gradient of input {index}"] = leaf.grad
    return results
