"""The Triton kernels of `ema` against its reference in float64."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds, poisoned_empty, randn
from torch import Tensor

from hnet_kernels import ema
from hnet_kernels.dispatch import backend
from hnet_kernels.ema import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
TILE = 16


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles shorter than the documents, so that small packs span several."""
    monkeypatch.setattr(kernels, "tile_rows", lambda num_rows, width: TILE)


def run(z: Tensor, prob: Tensor, grad: Tensor, cu_seqlens: Tensor, at_least_half: bool) -> list[Tensor]:
    """The output and the gradients of z and prob."""
    z, prob = z.detach().requires_grad_(), prob.detach().requires_grad_()
    out = ema(z, prob, cu_seqlens, at_least_half=at_least_half)
    return [out.detach(), *torch.autograd.grad(out, [z, prob], grad)]


def assert_kernels_agree(
    lengths: Sequence[int], width: int, low: float, high: float, at_least_half: bool, dtype: torch.dtype
) -> None:
    cu_seqlens, num_rows = bounds(lengths).to(DEVICE), sum(lengths)
    z, grad = (randn(num_rows, width).to(DEVICE, dtype) for _ in range(2))
    prob = (low + (high - low) * torch.rand(num_rows)).to(DEVICE)
    with backend("reference"):
        expected = run(z.double(), prob.double(), grad.double(), cu_seqlens, at_least_half)
    with backend("triton"), poisoned_empty():
        measured = run(z, prob, grad, cu_seqlens, at_least_half)
    for want, got, result_dtype in zip(expected, measured, (dtype, dtype, torch.float32), strict=True):
        assert got.dtype == result_dtype and got.shape == want.shape
        assert float((got.double() - want).abs().max()) <= TOLERANCE[dtype] * max(float(want.abs().max()), 1e-3)


PACKS = [[1], [7], [1] * 19, [16, 16, 16], [3, 45, 1, 2], [60]]
every_pack = pytest.mark.parametrize("lengths", PACKS, ids=lambda lengths: "-".join(map(str, lengths[:5])))
both_dtypes = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])


@every_pack
@both_dtypes
@pytest.mark.usefixtures("small_tiles")
def test_learned_boundaries_need_no_carry(lengths, dtype):
    assert_kernels_agree(lengths, 5, 0.5, 1.0, True, dtype)


@every_pack
@both_dtypes
@pytest.mark.parametrize(("low", "high"), [(0.0, 2e-3), (0.0, 1.0)])
@pytest.mark.usefixtures("small_tiles")
def test_any_probability_is_carried_from_tile_to_tile(lengths, dtype, low, high):
    assert_kernels_agree(lengths, 5, low, high, False, dtype)


@pytest.mark.usefixtures("small_tiles")
def test_smallest_promised_probability_is_exact_over_many_tiles():
    assert_kernels_agree([4 * TILE + 3, 2], 3, 0.5, 0.5, True, torch.float32)


@pytest.mark.usefixtures("small_tiles")
def test_carry_passes_more_tiles_than_one_step_of_the_scan():
    assert_kernels_agree([17 * TILE + 1], 2, 0.0, 0.01, False, torch.float32)


@pytest.mark.parametrize(("width", "at_least_half"), [(70, True), (70, False), (300, True)])
def test_widths_that_are_no_power_of_two(width, at_least_half):
    assert_kernels_agree([9, 4], width, 0.5, 1.0, at_least_half, torch.float32)


@both_dtypes
@pytest.mark.parametrize("at_least_half", [True, False])
def test_tiles_of_the_size_that_is_used(dtype, at_least_half):
    assert_kernels_agree([100, 1, 40], 3, 0.5, 1.0, at_least_half, dtype)


def test_clamp_cuts_the_gradient_of_the_probability():
    prob = torch.tensor([1.0, 0.0, 5e-5, 1e-4, 0.5, 1.0], device=DEVICE)
    z, cu_seqlens = randn(6, 4).to(DEVICE, torch.float32), bounds([6]).to(DEVICE)
    with backend("triton"):
        dprob = run(z, prob, torch.ones_like(z), cu_seqlens, False)[2]
    assert (dprob == 0).tolist() == [True, True, True, False, False, True]


def test_gradient_may_be_broadcast():
    z, prob, cu_seqlens = torch.ones(5, 3, device=DEVICE), torch.full((5,), 0.7, device=DEVICE), bounds([5]).to(DEVICE)
    dense = torch.ones(5, 3, device=DEVICE)
    with backend("triton"):
        expected = run(z, prob, dense, cu_seqlens, True)
        measured = run(z, prob, dense[:1, :1].expand(5, 3), cu_seqlens, True)
    for want, got in zip(expected, measured, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@settings(max_examples=6)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    width=st.integers(1, 5),
    low=st.sampled_from([0.0, 0.4, 0.5]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_pack_of_any_width(lengths, width, low, dtype):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "tile_rows", lambda num_rows, width: TILE)
        assert_kernels_agree(lengths, width, low, 1.0, low >= 0.5, dtype)


@pytest.mark.parametrize("at_least_half", [False, True])
def test_a_probability_that_is_nan_is_seen_in_the_rows_after_it(at_least_half):
    z, prob, cu_seqlens = (
        torch.randn(6, 3, device=DEVICE),
        torch.full((6,), 0.75, device=DEVICE),
        bounds([6]).to(DEVICE),
    )
    prob[2] = float("nan")
    with backend("triton"):
        out = ema(z, prob, cu_seqlens, at_least_half=at_least_half)
    assert out[:2].isfinite().all() and out[2:].isnan().all()
