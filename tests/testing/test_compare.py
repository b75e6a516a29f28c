"""The comparison with float64 finds errors in values and in gradients."""

import pytest
import torch
from torch import Tensor

from hnet.testing.compare import assert_close_to_fp64, relative_error


def wrong_backward(x: Tensor) -> Tensor:
    """x squared, with the gradient of x cubed in float32."""
    return x * x if x.dtype == torch.float64 else x * x + (x**3 - (x**3).detach())


def test_a_right_function_passes() -> None:
    inputs = (torch.randn(5, 7), torch.randn(7, 3))
    assert_close_to_fp64(torch.matmul, inputs, tolerance=1e-6)


def test_a_wrong_gradient_is_named() -> None:
    with pytest.raises(AssertionError, match="gradient of input 0: relative error"):
        assert_close_to_fp64(wrong_backward, (torch.randn(9),), tolerance=1e-5)


def test_relative_error() -> None:
    reference = torch.tensor([1.0, -4.0])
    assert relative_error(torch.tensor([1.0, -3.0]), reference) == 0.25
    assert relative_error(torch.tensor([1.0, float("nan")]), reference) == float("inf")
    with pytest.raises(AssertionError, match="shapes differ"):
        relative_error(torch.zeros(3), reference)
