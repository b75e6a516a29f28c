import torch
from packs import assert_same, both_precisions, randn

from hnet_kernels import upsample

INDEX = torch.tensor([0, 0, 0, 1, 2, 2, 3])


@both_precisions
def test_gradients_are_those_of_a_straight_through_estimator(dtype):
    def straight_through(zbar, confidence, residual):
        one = confidence + (1 - confidence).detach()
        return residual + zbar[INDEX] * one[:, None]

    assert_same(
        lambda zbar, confidence, residual: upsample(zbar, INDEX, confidence, residual),
        straight_through,
        [randn(4, 5), torch.rand(7, dtype=torch.float64), randn(7, 5)],
        dtype,
    )


def test_forward_multiplies_by_exactly_one():
    zbar, residual = torch.randn(4, 5), torch.randn(7, 5)
    out = upsample(zbar, INDEX, torch.rand(7), residual)
    torch.testing.assert_close(out, residual + zbar[INDEX], rtol=0, atol=0)


def test_result_has_the_dtype_of_the_residual():
    zbar, residual = torch.randn(4, 5).bfloat16(), torch.randn(7, 5)
    assert upsample(zbar, INDEX, torch.rand(7), residual).dtype == torch.float32
