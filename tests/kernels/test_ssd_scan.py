import naive
import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import ssd_scan


def make_inputs(num_units: int, heads: int = 2, width: int = 4, states: int = 5) -> list[torch.Tensor]:
    """x, dt, A, B, C, D as Mamba-2 has them: dt log-uniform in 1e-3..1, A in -16..-1."""
    dt = 10 ** (-3 * torch.rand(num_units, heads, dtype=torch.float64))
    decay = -1 - 15 * torch.rand(heads, dtype=torch.float64)
    keys, queries = randn(num_units, states), randn(num_units, states)
    return [randn(num_units, heads, width), dt, decay, keys, queries, randn(heads)]


@every_pack
@both_precisions
def test_agrees_with_a_loop_over_units(lengths, dtype):
    cu_seqlens = bounds(lengths)
    assert_same(
        lambda *t: ssd_scan(*t, cu_seqlens),
        lambda *t: naive.ssd_scan(*t, cu_seqlens)[0],
        make_inputs(sum(lengths)),
        dtype,
        tolerance=1e-10 if dtype == torch.float64 else 2e-5,
    )


@every_pack
@both_precisions
def test_final_states_and_their_gradients(lengths, dtype):
    cu_seqlens = bounds(lengths)

    def ours(*t):
        y, states = ssd_scan(*t, cu_seqlens, return_final_states=True)
        return torch.cat([y.flatten(), states.flatten()])

    def loop(*t):
        return torch.cat([part.flatten() for part in naive.ssd_scan(*t, cu_seqlens)])

    assert_same(ours, loop, make_inputs(sum(lengths)), dtype, tolerance=1e-10 if dtype == torch.float64 else 2e-5)


def test_shape_of_final_states():
    inputs = [t.float() for t in make_inputs(30)]
    y, states = ssd_scan(*inputs, bounds([10, 20]), return_final_states=True)
    assert y.shape == (30, 2, 4)
    assert states.shape == (2, 2, 4, 5) and states.dtype == torch.float32


@pytest.mark.parametrize("decay", [1e-4, 30.0])
def test_weak_and_violent_decays_stay_finite(decay):
    x, dt, A, B, C, D = (t.float() for t in make_inputs(400))
    inputs = [t.requires_grad_() for t in (x, torch.full_like(dt, decay), torch.full_like(A, -16.0), B, C, D)]
    y = ssd_scan(*inputs, bounds([150, 250]))
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(t.grad).all() for t in inputs)


def test_step_of_zero_passes_the_state_on():
    x, dt, A, B, C, D = make_inputs(20)
    dt[7:] = 0
    y = ssd_scan(x, dt, A, B, C, D, bounds([20]))
    torch.testing.assert_close(y, naive.ssd_scan(x, dt, A, B, C, D, bounds([20]))[0])


def test_views_of_one_convolution_output():
    cu_seqlens = bounds([70, 30])
    _, dt, A, _, _, D = make_inputs(100)

    def both(scan):
        def run(wide):
            x, B, C = wide.split([8, 5, 5], dim=-1)
            return scan(x.unflatten(-1, (2, 4)), dt, A, B, C, D, cu_seqlens)

        return run

    assert_same(both(ssd_scan), both(lambda *t: naive.ssd_scan(*t)[0]), [randn(100, 18)], torch.float64)


def test_documents_do_not_reach_each_other():
    inputs = make_inputs(100)
    cu_seqlens = bounds([70, 30])
    before = ssd_scan(*inputs, cu_seqlens)[70:]
    inputs[0][:70] = 1e8
    torch.testing.assert_close(ssd_scan(*inputs, cu_seqlens)[70:], before, rtol=0, atol=0)
