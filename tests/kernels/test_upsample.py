import pytest
import torch
from packs import assert_same, both_precisions, randn

from hnet_kernels import upsample
from hnet_kernels.case import Sizes
from hnet_kernels.upsample.case import CASES

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


def test_one_rounding_at_the_end():
    zbar, residual = torch.randn(4, 5).bfloat16(), torch.randn(7, 5)
    out = upsample(zbar, INDEX, torch.rand(7), residual, out_dtype=torch.bfloat16)
    torch.testing.assert_close(out, (residual + zbar.float()[INDEX]).bfloat16(), rtol=0, atol=0)


def test_gradients_have_the_dtypes_of_their_inputs_and_sums_are_wide():
    zbar, residual = torch.randn(1, 5).bfloat16().requires_grad_(), torch.randn(1000, 5, requires_grad=True)
    confidence = torch.rand(1000, requires_grad=True)
    out = upsample(zbar, torch.zeros(1000, dtype=torch.int64), confidence, residual, out_dtype=torch.bfloat16)
    grad = torch.rand(1000, 5).bfloat16()
    out.backward(grad)
    assert (zbar.grad.dtype, residual.grad.dtype, confidence.grad.dtype) == (torch.bfloat16, *[torch.float32] * 2)
    torch.testing.assert_close(zbar.grad[0], grad.double().sum(0).bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(confidence.grad, grad.float() @ zbar.detach().float()[0])


def test_residual_gets_the_gradient_without_a_copy():
    residual = torch.randn(7, 5, requires_grad=True)
    grad = torch.randn(7, 5)
    (dresidual,) = torch.autograd.grad(upsample(torch.randn(4, 5), INDEX, torch.rand(7), residual), residual, grad)
    assert dresidual.data_ptr() == grad.data_ptr()


OFFSETS = torch.tensor([0, 3, 4, 6, 7], dtype=torch.int32)


def test_wrong_number_of_offsets_is_refused():
    with pytest.raises(ValueError, match="chunk_offsets of 4 chunks"):
        upsample(torch.randn(4, 5), INDEX, torch.rand(7), torch.randn(7, 5), chunk_offsets=OFFSETS[:-1])


def test_is_captured_as_one_graph():
    def function(zbar, confidence, residual):
        return upsample(zbar, INDEX, confidence, residual, chunk_offsets=OFFSETS, out_dtype=torch.bfloat16)

    leaves = [torch.randn(4, 5).bfloat16(), torch.rand(7), torch.randn(7, 5)]
    for leaf in leaves:
        leaf.requires_grad_()
    compiled, eager = torch.compile(function, backend="aot_eager", fullgraph=True)(*leaves), function(*leaves)
    grad = torch.randn(7, 5).bfloat16()
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    for got, want in zip(
        torch.autograd.grad(compiled, leaves, grad), torch.autograd.grad(eager, leaves, grad), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("offsets", [OFFSETS, None], ids=["offsets", "no offsets"])
def test_registration_of_the_op(offsets):
    zbar, residual = randn(4, 5).requires_grad_(), randn(7, 5).requires_grad_()
    confidence = torch.rand(7, dtype=torch.float64, requires_grad=True)
    checks = torch.library.opcheck(
        torch.ops.hnet.upsample.default, (zbar, INDEX, confidence, residual, offsets, torch.float64)
    )
    assert len(checks) == 4 and set(checks.values()) == {"SUCCESS"}


def test_rival_computes_the_same():
    sizes = Sizes(num_units=40, num_chunks=9, width=6, num_documents=3, dtype=torch.float32)
    arguments = CASES[0].inputs(sizes)
    leaves = [t for t in arguments.values() if t.requires_grad]
    grad = torch.randn(40, 6)
    results = [run(**arguments) for run in (CASES[0].run, CASES[0].others["eager"])]
    torch.testing.assert_close(*results)
    for ours, theirs in zip(*(torch.autograd.grad(out, leaves, grad) for out in results), strict=True):
        torch.testing.assert_close(ours, theirs)
