from types import SimpleNamespace

import naive
import pytest
import torch
from libraries import chunk_simple_gla, mamba_chunk_scan_combined, stand_in
from packs import assert_same, both_precisions, bounds, every_pack, randn

from hnet_kernels import ssd_scan
from hnet_kernels.providers import provider
from hnet_kernels.ssd_scan import op


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


LIBRARIES = {
    "mamba-ssm": ("mamba_ssm.ops.triton.ssd_combined", {"mamba_chunk_scan_combined": mamba_chunk_scan_combined}),
    "flash-linear-attention": ("fla.ops.simple_gla", {"chunk_simple_gla": chunk_simple_gla}),
}


@pytest.mark.parametrize("with_states", [False, True])
@pytest.mark.parametrize("name", LIBRARIES)
def test_libraries_are_given_what_makes_them_agree_with_our_scan(name, with_states):
    cu_seqlens = bounds([9, 1, 30])

    def joined(*t):
        result = ssd_scan(*t, cu_seqlens, return_final_states=with_states)
        return torch.cat([part.flatten() for part in result]) if with_states else result

    def through_library(*t):
        module, contents = LIBRARIES[name]
        with stand_in(module, **contents), provider("ssd_scan", name):
            return joined(*t)

    inputs = make_inputs(40)
    assert_same(through_library, joined, inputs, torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(through_library(*inputs), joined(*inputs))


@pytest.mark.parametrize("name", LIBRARIES)
def test_states_of_half_precision_come_in_float32_from_every_library(name):
    inputs = make_inputs(40)
    half = [inputs[0].bfloat16(), *(t.float() for t in inputs[1:3]), *(t.bfloat16() for t in inputs[3:5])]
    half.append(inputs[5].float())
    module, contents = LIBRARIES[name]
    expected = ssd_scan(*half, bounds([9, 31]), return_final_states=True)
    with torch.no_grad(), stand_in(module, **contents), provider("ssd_scan", name):
        y, states = ssd_scan(*half, bounds([9, 31]), return_final_states=True)
    assert (y.dtype, states.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(y.float(), expected[0].float(), rtol=0.05, atol=0.05)
    torch.testing.assert_close(states, expected[1], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("present", "dtype", "num_units", "expected"),
    [
        ({"mamba_ssm", "fla"}, torch.bfloat16, 100, "mamba-ssm"),
        ({"mamba_ssm", "fla"}, torch.float16, 2**21, "flash-linear-attention"),
        ({"fla"}, torch.bfloat16, 100, "flash-linear-attention"),
        (set(), torch.bfloat16, 100, "reference"),
        ({"mamba_ssm", "fla"}, torch.float32, 100, "reference"),
    ],
)
def test_order_of_choice_on_a_gpu(monkeypatch, present, dtype, num_units, expected):
    monkeypatch.setattr("hnet_kernels.providers._found", lambda module: module.split(".")[0] in present)
    t = SimpleNamespace(is_cuda=True, dtype=dtype, shape=(num_units, 16, 64), stride=lambda axis: 1024)
    assert op.face.choose(t, t, t, t, t, t, t, False).name == expected


@pytest.mark.parametrize("name", LIBRARIES)
def test_missing_library_is_named(monkeypatch, name):
    monkeypatch.setattr("hnet_kernels.providers._found", lambda module: False)
    with pytest.raises(ImportError, match=f"pip install.*{name}"):
        provider("ssd_scan", name).__enter__()
