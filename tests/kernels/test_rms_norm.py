import naive
import pytest
import torch
from packs import assert_same, both_precisions, randn

from hnet_kernels import gated_rms_norm, rms_norm

SHAPES = [(1, 6), (33, 6), (5, 7, 8), (40, 2**14)]


@both_precisions
@pytest.mark.parametrize("shape", SHAPES)
def test_norm(shape, dtype):
    inputs = [randn(*shape), randn(shape[-1])]
    assert_same(lambda *t: rms_norm(*t, 1e-5), lambda *t: naive.rms_norm(*t, 1e-5), inputs, dtype)


@both_precisions
@pytest.mark.parametrize("shape", SHAPES)
def test_gate_comes_before_the_norm(shape, dtype):
    def gated(y, z, weight):
        return naive.rms_norm(y * z * torch.sigmoid(z), weight, 1e-5)

    inputs = [randn(*shape), randn(*shape), randn(shape[-1])]
    assert_same(lambda *t: gated_rms_norm(*t, 1e-5), gated, inputs, dtype)


def test_epsilon_counts_for_small_rows():
    x = torch.full((1, 4), 1e-4, dtype=torch.float64)
    assert rms_norm(x, torch.ones(4, dtype=torch.float64), 1e-8)[0, 0].item() == pytest.approx(1 / 2**0.5)
