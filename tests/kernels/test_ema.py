import naive
import pytest
import torch
from libraries import stand_in
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import ema
from hnet_kernels.case import Sizes
from hnet_kernels.ema.case import CASES

# Boundaries have P > 1/2; forced ones and other routers do not, and the clamp has two ends.
RANGES = [(0.5, 1.0), (0.0, 0.02), (0.0, 1.0)]


@every_pack
@both_precisions
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_agrees_with_a_loop_over_chunks(lengths, dtype, low, high):
    cu_seqlens = bounds(lengths)
    prob = low + (high - low) * torch.rand(sum(lengths), dtype=torch.float64)
    prob[cu_seqlens[:-1].long()] = 1.0
    prob[-1] = 0.0
    assert_same(
        lambda *t: ema(*t, cu_seqlens),
        lambda *t: naive.ema(*t, cu_seqlens),
        [randn(sum(lengths), 3), prob],
        dtype,
    )


def test_first_chunk_of_a_document_is_clamped_too():
    z = torch.ones(3, 1, dtype=torch.float64)
    smoothed = ema(z, torch.ones(3, dtype=torch.float64), bounds([2, 1]))
    assert smoothed[0].item() == pytest.approx(1 - 1e-4)
    assert smoothed[2].item() == pytest.approx(1 - 1e-4)


def test_documents_do_not_reach_each_other():
    z, prob = randn(30, 3), torch.full((30,), 0.01, dtype=torch.float64)
    before = ema(z, prob, bounds([20, 10]))[20:]
    z[:20] = 1e9
    torch.testing.assert_close(ema(z, prob, bounds([20, 10]))[20:], before, rtol=0, atol=0)


@pytest.mark.parametrize("at_least_half", [False, True])
def test_half_precision_is_rounded_once(at_least_half):
    z, prob, cu_seqlens = randn(9, 4).bfloat16().requires_grad_(), torch.rand(9).requires_grad_(), bounds([6, 3])
    wide, wide_prob = z.detach().double().requires_grad_(), prob.detach().double().requires_grad_()
    grad = randn(9, 4).bfloat16()
    out, expected = ema(z, prob, cu_seqlens, at_least_half=at_least_half), ema(wide, wide_prob, cu_seqlens)
    dz, dprob = torch.autograd.grad(out, [z, prob], grad)
    dwide, dwide_prob = torch.autograd.grad(expected, [wide, wide_prob], grad.double())
    assert (out.dtype, dz.dtype, dprob.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    torch.testing.assert_close(out, expected.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(dz, dwide.bfloat16(), rtol=0, atol=0)
    # The smoothed chunks that it needs are kept in bfloat16.
    torch.testing.assert_close(dprob.double(), dwide_prob, rtol=0, atol=2e-2 * float(dwide_prob.abs().max()))


def test_promise_is_captured_as_one_graph():
    z, prob = torch.randn(9, 4, requires_grad=True), (0.5 + torch.rand(9) / 2).requires_grad_()

    def function(z, prob):
        return ema(z, prob, bounds([6, 3]), at_least_half=True)

    compiled, eager = torch.compile(function, backend="aot_eager", fullgraph=True)(z, prob), function(z, prob)
    grads = [torch.autograd.grad(out.square().sum(), [z, prob]) for out in (compiled, eager)]
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_rival_computes_the_same(case):
    sizes = Sizes(num_units=90, num_chunks=40, width=6, num_documents=3, dtype=torch.float32)
    arguments = case.inputs(sizes)
    grad = torch.randn(40, 6)
    results = [run(**arguments) for run in (case.run, case.others["eager"])]
    torch.testing.assert_close(*results)
    leaves = [arguments["z"], arguments["prob"]]
    # Where a document starts, P = 1 is clamped.
    for ours, theirs in zip(*(torch.autograd.grad(out, leaves, grad) for out in results), strict=True):
        torch.testing.assert_close(ours, theirs)


def mamba_chunk_scan_combined(x, dt, A, B, C, *, chunk_size, seq_idx):
    """The state of mamba_ssm's function for d_state = 1, unit by unit."""
    rows, state = [], torch.zeros_like(x[0, 0], dtype=torch.float64)
    for i in range(x.shape[1]):
        decay = (dt[0, i] * A).double().exp() * (i > 0 and seq_idx[0, i] == seq_idx[0, i - 1])
        state = decay[:, None] * state + (dt[0, i][:, None] * x[0, i]).double() * B[0, i, 0, 0].double()
        rows.append(state * C[0, i, 0, 0])
    return torch.stack(rows)[None].to(x.dtype)


def test_official_form_computes_the_same():
    sizes = Sizes(num_units=60, num_chunks=30, width=64, num_documents=3, dtype=torch.float32)
    arguments = CASES[0].inputs(sizes)
    with stand_in("mamba_ssm.ops.triton.ssd_combined", mamba_chunk_scan_combined=mamba_chunk_scan_combined):
        official = CASES[0].others["upstream"](**arguments)
    torch.testing.assert_close(official, CASES[0].run(**arguments), rtol=0, atol=0.05)
