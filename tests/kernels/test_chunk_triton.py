"""Selection by kernels (interpreted where there is no GPU) against the reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds, poisoned_empty, randn
from torch import Tensor

from hnet_kernels import backend, chunk, chunk_with_residual, residual_linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def random_mask(lengths: list[int], share: float) -> Tensor:
    mask = torch.rand(sum(lengths)) < share
    mask[bounds(lengths)[:-1].long()] = True
    return mask


def run(x: Tensor, mask: Tensor, lengths: list[int], device: str, *, fused: bool) -> list[Tensor]:
    """Chunks, bounds, index, offsets, then every gradient."""
    leaves = [x.detach().to(device).requires_grad_()]
    cu_seqlens, mask = bounds(lengths).to(device), mask.to(device)
    if fused:
        width, wide = x.shape[1], torch.promote_types(x.dtype, torch.float32)
        torch.manual_seed(1)
        leaves += [randn(*shape).to(device, wide).requires_grad_() for shape in ((width, width), (width,))]
        chunks, residual = chunk_with_residual(leaves[0], mask, cu_seqlens, leaves[1], leaves[2])
        loss = chunks.values.square().sum() + residual.sin().sum()
    else:
        chunks = chunk(leaves[0], mask, cu_seqlens)
        loss = chunks.values.square().sum()
    loss.backward()
    return [t.detach().cpu().double() for t in (*chunks, *(leaf.grad for leaf in leaves))]


def assert_kernels_agree(lengths: list[int], width: int, dtype: torch.dtype, share: float, fused: bool) -> None:
    x, mask = randn(sum(lengths), width).to(dtype), random_mask(lengths, share)
    want = run(x.double(), mask, lengths, "cpu", fused=fused)
    with backend("triton"), poisoned_empty():
        got = run(x, mask, lengths, DEVICE, fused=fused)
    for index, (a, b) in enumerate(zip(got, want, strict=True)):
        if index < 4:
            assert torch.equal(a, b)
        else:
            error = (a - b).abs().max() / b.abs().max()
            assert error <= TOLERANCE[dtype], f"result {index} is off by {error:.1e}"


@pytest.mark.parametrize("fused", [False, True], ids=["alone", "with residual"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [37, 1, 26]], ids=str)
def test_kernels_agree_with_the_reference(lengths, share, dtype, fused):
    assert_kernels_agree(lengths, 24, dtype, share, fused)


@settings(max_examples=8)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(2, 40), st.floats(0, 1), st.booleans())
def test_kernels_agree_on_any_ragged_pack(lengths, width, share, fused):
    assert_kernels_agree(lengths, width, torch.float32, share, fused)


def test_the_scan_carries_its_count_over_many_blocks():
    lengths = [9000, 1, 4095, 4097]
    x, mask = torch.arange(sum(lengths))[:, None].float(), random_mask(lengths, 0.2)
    with backend("triton"), poisoned_empty():
        got = chunk(x.to(DEVICE), mask.to(DEVICE), bounds(lengths).to(DEVICE))
    want = chunk(x, mask, bounds(lengths))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_with_room_for_more_chunks_the_rest_is_zeros(name):
    lengths, x = [7, 4], torch.randn(11, 5, device=DEVICE, requires_grad=True)
    mask = random_mask(lengths, 0.3).to(DEVICE)
    count, cu_seqlens = int(mask.sum()), bounds(lengths).to(DEVICE)
    want = chunk(x, mask, cu_seqlens)
    (want_grad,) = torch.autograd.grad(want.values.sin().sum(), x)
    with backend(name):
        got = chunk(x, mask, cu_seqlens, max_chunks=count + 3)
        (grad,) = torch.autograd.grad((got.values.sin() + got.values).sum(), x)
    assert got.values.shape == (count + 3, 5) and not got.values[count:].any()
    assert torch.equal(got.values[:count], want.values) and torch.equal(got.chunk_index, want.chunk_index)
    assert got.chunk_offsets.tolist() == [*want.chunk_offsets.tolist(), 11, 11, 11]
    assert int(got.cu_seqlens[-1]) == count
    torch.testing.assert_close(grad, want_grad + mask[:, None].float())


@pytest.mark.parametrize("wrong", [0, 12])
def test_a_number_of_chunks_that_cannot_be_is_refused(wrong):
    mask = random_mask([7, 4], 0.3)
    with pytest.raises(ValueError, match="max_chunks must be from 1 to the 11 units"):
        chunk(torch.randn(11, 5), mask, bounds([7, 4]), max_chunks=wrong)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_one_node_gives_what_two_give(precision):
    x, weight, bias = randn(11, 5).float(), randn(5, 5).float(), randn(5).float()
    mask, cu_seqlens = random_mask([7, 4], 0.3), bounds([7, 4])
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    chunks, residual = chunk_with_residual(x, mask, cu_seqlens, weight, bias, precision=precision)
    together = torch.autograd.grad(chunks.values.sin().sum() + residual.float().cos().sum(), leaves)
    residual_alone = residual_linear(x, weight, bias, precision=precision)
    apart = torch.autograd.grad(
        chunk(x, mask, cu_seqlens).values.sin().sum() + residual_alone.float().cos().sum(), leaves
    )
    assert torch.equal(residual, residual_alone)
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a, b)
