"""The router's kernels (interpreted where there is no GPU) against the reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds, poisoned_empty, randn
from torch import Tensor

from hnet_kernels import backend, route

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def outputs_and_gradients(q: Tensor, k: Tensor, lengths: list[int], device: str) -> list[Tensor]:
    q, k = (t.detach().to(device).requires_grad_() for t in (q, k))
    routing = route(q, k, bounds(lengths).to(device))
    weight = torch.linspace(-1, 1, sum(lengths), dtype=routing.prob.dtype, device=device)
    ((routing.prob * weight).sum() + (routing.confidence * weight.square()).sum() + routing.prob_sum / 3).backward()
    return [*(t.detach().cpu().double() for t in routing), q.grad.cpu().double(), k.grad.cpu().double()]


def assert_kernels_agree(lengths: list[int], width: int, dtype: torch.dtype) -> None:
    q, k = (randn(sum(lengths), width).to(dtype) for _ in range(2))
    want = outputs_and_gradients(q.double(), k.double(), lengths, "cpu")
    with backend("triton"), poisoned_empty():
        got = outputs_and_gradients(q, k, lengths, DEVICE)
    assert torch.equal(got[1], want[1]) and got[4] == want[4], "boundaries differ"
    for name, a, b in zip(("prob", "", "confidence", "prob_sum", "", "dq", "dk"), got, want, strict=True):
        error = (a - b).abs().max() / b.abs().max().clamp(min=1e-3)
        assert error <= (TOLERANCE[dtype] if name.startswith("d") else 1e-5), f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [41], [37, 1, 26]], ids=str)
@pytest.mark.parametrize("width", [24, 70])
def test_kernels_agree_with_the_reference(lengths, width, dtype):
    assert_kernels_agree(lengths, width, dtype)


def test_a_row_wider_than_a_tile_is_summed_over_tiles():
    assert_kernels_agree([5, 2], 1536, torch.bfloat16)


@settings(max_examples=8)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(4, 40))
def test_kernels_agree_on_any_ragged_pack(lengths, width):
    assert_kernels_agree(lengths, width, torch.float32)


def test_a_tie_is_no_boundary_and_zero_vectors_have_finite_gradients():
    q = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], device=DEVICE, requires_grad=True)
    k = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.1], [1.0, 0.0]], device=DEVICE)
    with backend("triton"):
        routing = route(q, k, bounds([4]).to(DEVICE))
        routing.prob.sum().backward()
    assert routing.prob.tolist()[1] == 0.5 and routing.mask.tolist() == [True, False, True, False]
    assert torch.isfinite(q.grad).all()


def test_interpreted_kernels_are_only_for_those_who_ask():
    q = torch.randn(3, 4)
    reference = route(q, q, bounds([3]))
    with backend("reference"):
        assert torch.equal(route(q, q, bounds([3])).prob, reference.prob)
    with pytest.raises(RuntimeError, match="inside"), backend("triton"):
        raise RuntimeError("inside")
    assert torch.equal(route(q, q, bounds([3])).prob, reference.prob)


def test_a_nan_is_seen_in_the_probabilities():
    q, k = torch.randn(7, 5), torch.randn(7, 5)
    q[2, 3] = float("nan")
    want = route(q, k, bounds([4, 3]))
    with backend("triton"):
        got = route(q.to(DEVICE), k.to(DEVICE), bounds([4, 3]).to(DEVICE))
    assert got.prob.isnan().tolist() == [index == 3 for index in range(7)] and got.prob_sum.isnan()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.cpu(), b, equal_nan=True)
