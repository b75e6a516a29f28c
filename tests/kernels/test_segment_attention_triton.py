"""The kernels of pooling and unpooling, interpreted on a CPU or on a GPU, against a loop over chunks in float64."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds, poisoned_empty, randn, results
from test_segment_attention import pool_inputs, pool_loop, unpool_inputs, unpool_loop
from torch import Tensor

from hnet_kernels.dispatch import backend
from hnet_kernels.segment_attention import reference
from hnet_kernels.segment_attention import triton as kernels
from hnet_kernels.segment_attention.op import pool_attention, unpool_attention
from hnet_kernels.segment_attention.triton import FORWARD_ROWS, blocks

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Half precision is rounded where it is stored, to one part in 128 by the interpreter, which truncates.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
PACKS = [[1], [5], [1, 1, 1, 1], [4, 8, 1], [13, 1, 2, 7, 3]]
every_pack = pytest.mark.parametrize("lengths", PACKS, ids=lambda lengths: "-".join(map(str, lengths)))
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "bf16", "fp16"])
# Heads and elements of a head: full blocks, neither a power of two, more than a program of 4-element rows holds.
every_head = pytest.mark.parametrize(("heads", "width"), [(2, 8), (3, 5), (2, 35), (12, 1), (1, 1)])
Op = Callable[..., Tensor]


def assert_close(expected: Sequence[Tensor], measured: Sequence[Tensor], dtype: torch.dtype) -> None:
    """An error is measured against the largest element of its tensor, or a tenth of the largest of all."""
    floor = 0.1 * max(float(t.abs().max()) for t in expected)
    for index, (want, got) in enumerate(zip(expected, measured, strict=True)):
        assert got.shape == want.shape and got.dtype == dtype
        error = float((got.cpu().double() - want).abs().max()) / max(float(want.abs().max()), floor)
        assert error <= TOLERANCE[dtype], f"result {index} is off by {error:.1e}"


def assert_agrees(op: Op, loop: Op, inputs: Sequence[Tensor], offsets: Tensor, dtype: torch.dtype) -> None:
    """Output and gradients of an op that runs its kernels, against those of a loop in float64."""
    inputs = [t.to(dtype).double() for t in inputs]
    grad = torch.randn_like(loop(*inputs, offsets)).to(dtype)
    expected = results(lambda *t: loop(*t, offsets), inputs, grad)
    with backend("triton"), poisoned_empty():
        narrow = [t.to(DEVICE, dtype) for t in inputs]
        measured = results(lambda *t: op(*t, offsets.to(DEVICE)), narrow, grad.to(DEVICE))
    assert_close(expected, measured, dtype)


def assert_pool(inputs: Sequence[Tensor], offsets: Tensor, dtype: torch.dtype) -> None:
    """As `assert_agrees`. In half precision the gradients depend on the rounded output: both start from the same."""
    if dtype == torch.float32:
        assert_agrees(pool_attention, pool_loop, inputs, offsets, dtype)
        return
    q, k, v = (t.to(DEVICE, dtype) for t in inputs)
    grad = torch.randn(q.shape).to(DEVICE, dtype)
    on_device = offsets.to(DEVICE)
    with poisoned_empty():
        out, logsumexp = kernels.pool_attention_forward(q, k, v, on_device, 0.4)
        grads = kernels.pool_attention_backward(grad, q, k, v, on_device, out, logsumexp, 0.4)
    wide = [t.cpu().double() for t in (grad, q, k, v, out, logsumexp)]
    expected = pool_loop(*wide[1:4], offsets, 0.4)
    expected_grads = reference.pool_attention_backward(*wide[:4], offsets, *wide[4:], 0.4)
    assert_close([expected, *expected_grads], [out, *grads], dtype)


def assert_unpool(inputs: Sequence[Tensor], offsets: Tensor, dtype: torch.dtype) -> None:
    assert_agrees(unpool_attention, unpool_loop, inputs, offsets, dtype)


@every_pack
@every_dtype
def test_pooling_over_packs(lengths, dtype):
    assert_pool(pool_inputs(lengths, 1), bounds(lengths), dtype)


@every_pack
@every_dtype
def test_unpooling_over_packs(lengths, dtype):
    assert_unpool(unpool_inputs(lengths, 2), bounds(lengths), dtype)


@pytest.mark.parametrize("group", [1, 2, 3, 4, 9])
def test_any_number_of_queries_or_keys(group):
    lengths = [7, 1, 5]
    assert_pool(pool_inputs(lengths, group), bounds(lengths), torch.float32)
    inputs = unpool_inputs(lengths, group, 3)
    assert_unpool(inputs, bounds(lengths) + 2, torch.float32)


@every_head
@every_dtype
def test_any_number_and_width_of_heads(heads, width, dtype):
    lengths = [6, 1, 3]
    inputs = pool_inputs(lengths, 2, heads, width)
    assert_pool(inputs, bounds(lengths), dtype)
    inputs = unpool_inputs(lengths, 2, 0, heads, width)
    assert_unpool(inputs, bounds(lengths), dtype)


def test_heads_of_more_than_one_program():
    lengths = [5, 2]
    heads, width = 20, 64
    assert blocks(2, heads, width, 4, FORWARD_ROWS)[2] > 1
    inputs = pool_inputs(lengths, 2, heads, width)
    assert_pool(inputs, bounds(lengths), torch.float32)
    inputs = unpool_inputs(lengths, 2, 3, heads, width)
    assert_unpool(inputs, bounds(lengths) + 1, torch.float32)


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (19, 30)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_units_outside_of_the_chunks_get_zeros(before, after, dtype, monkeypatch):
    # So few that each must write zeros several times.
    monkeypatch.setattr(kernels, "ZERO_PROGRAMS", 2)
    lengths = [3, 1, 5]
    inputs = unpool_inputs(lengths, 2, before + after)
    assert_unpool(inputs, bounds(lengths) + before, dtype)


def test_what_units_outside_hold_is_not_looked_at():
    offsets = (bounds([3, 2]) + 2).to(DEVICE)
    q, k, v = (t.float().to(DEVICE) for t in unpool_inputs([3, 2], 2, 4))
    q[:2], q[7:] = torch.nan, torch.inf
    grad = randn(*q.shape).float().to(DEVICE)
    grad[:2], grad[7:] = torch.inf, torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    with backend("triton"), poisoned_empty():
        out = unpool_attention(*leaves, offsets)
        dq, dk, dv = torch.autograd.grad(out, leaves, grad)
    for rows in (out[:2], out[7:], dq[:2], dq[7:]):
        assert rows.abs().max() == 0
    assert all(t.isfinite().all() for t in (out, dq, dk, dv))


def test_a_segment_of_a_thousand_units():
    lengths = [1, 1000, 2]
    assert_pool(pool_inputs(lengths, 1, 1, 2), bounds(lengths), torch.float32)
    lengths = [1, 300, 2]
    assert_unpool(unpool_inputs(lengths, 1, 0, 1, 2), bounds(lengths), torch.float32)


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    group=st.integers(1, 5),
    heads=st.integers(1, 5),
    width=st.integers(1, 20),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_any_ragged_shape(lengths, group, heads, width, before, after, dtype):
    inputs = pool_inputs(lengths, group, heads, width)
    assert_pool(inputs, bounds(lengths), dtype)
    inputs = unpool_inputs(lengths, group, before + after, heads, width)
    assert_unpool(inputs, bounds(lengths) + before, dtype)


def test_slices_of_one_projection_and_an_expanded_query_are_read_in_place():
    lengths = [6, 1, 3]
    offsets = bounds(lengths)

    def pooled(op: Op) -> Op:
        return lambda q, kv, offsets: op(q.expand(3, -1, -1, -1), *kv.unbind(1), offsets)

    def unpooled(op: Op) -> Op:
        return lambda qx, kv, offsets: op(qx[:, 1], *kv.unbind(1), offsets)

    inputs = [randn(1, 2, 3, 5), randn(10, 2, 3, 5)]
    assert_agrees(pooled(pool_attention), pooled(pool_loop), inputs, offsets, torch.float32)
    inputs = [randn(10, 3, 3, 5), randn(3, 2, 2, 3, 5)]
    assert_agrees(unpooled(unpool_attention), unpooled(unpool_loop), inputs, offsets, torch.float32)


def test_rows_that_are_not_contiguous_are_copied():
    lengths = [6, 1, 3]
    inputs = [t.transpose(-1, -2).contiguous() for t in pool_inputs(lengths, 2)]

    def turned(op: Op) -> Op:
        return lambda q, k, v, offsets: op(*(t.transpose(-1, -2) for t in (q, k, v)), offsets)

    assert_agrees(turned(pool_attention), turned(pool_loop), inputs, bounds(lengths), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_ten_thousand_do_not_overflow(dtype):
    score = torch.tensor([-1e4, 1e4, 0.0, 5e3, 1e4, -1e4, 2e3, -1e4, -1e4])
    k = score[:, None, None].to(DEVICE, dtype).requires_grad_()
    v = torch.arange(9.0)[:, None, None].to(DEVICE, dtype).requires_grad_()
    q = torch.ones(3, 1, 1, 1, dtype=dtype, device=DEVICE, requires_grad=True)
    with backend("triton"), poisoned_empty():
        out = pool_attention(q, k, v, bounds([6, 1, 2]).to(DEVICE))
        dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
    # Units 1 and 4 have the same score, and so have 7 and 8.
    assert out.flatten().tolist() == [2.5, 6.0, 7.5]
    # A float32 of this size is known to 1e-3, and so are the weights; dq is a difference of numbers of 1e4.
    rounded = {"rel": 1e-2, "abs": 1e-2}
    assert dv.flatten().tolist() == pytest.approx([0.0, 0.5, 0.0, 0.0, 0.5, 0.0, 1.0, 0.5, 0.5], **rounded)
    assert dk.flatten().tolist() == pytest.approx([0.0, -0.75, 0.0, 0.0, 0.75, 0.0, 0.0, -0.25, 0.25], **rounded)
    assert dq.isfinite().all() and dq.abs().max() < 1e4 * 1e-2
    keys, values = (t.detach()[None, :4].clone().requires_grad_() for t in (k, v))
    units = torch.tensor([1.0, -1.0]).view(2, 1, 1).to(DEVICE, dtype).requires_grad_()
    with backend("triton"), poisoned_empty():
        out = unpool_attention(units, keys, values, bounds([2]).to(DEVICE))
        grads = torch.autograd.grad(out.sum(), (units, keys, values))
    assert out.flatten().tolist() == [1.0, 0.0]
    assert [t.flatten().tolist() for t in grads] == [[0.0, 0.0], [0.0] * 4, [1.0, 1.0, 0.0, 0.0]]


def test_a_nan_is_passed_on_within_its_chunk_alone():
    lengths = [2, 3, 1]
    q, k, v = (t.float().to(DEVICE).requires_grad_() for t in pool_inputs(lengths, 1))
    with torch.no_grad():
        k[3] = torch.nan
    with backend("triton"), poisoned_empty():
        out = pool_attention(q, k, v, bounds(lengths).to(DEVICE))
        dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
    for chunks in (out, dq):
        assert chunks[1].isnan().all() and chunks[[0, 2]].isfinite().all()
    for units in (dk, dv):
        assert units[2:5].isnan().all() and units[[0, 1, 5]].isfinite().all()


@pytest.mark.parametrize(
    ("group", "heads", "width", "itemsize", "head_block", "num_warps", "programs"),
    [
        (1, 16, 64, 2, 16, 4, 1),
        (1, 16, 96, 2, 8, 4, 2),
        (1, 16, 128, 4, 4, 4, 4),
        (2, 12, 64, 2, 4, 1, 3),
        (2, 15, 64, 2, 16, 4, 1),
        (8, 16, 64, 2, 8, 4, 2),
        (1, 3, 5, 4, 4, 1, 1),
        (1, 2, 4096, 4, 1, 8, 2),
    ],
)
def test_blocks_leave_few_lanes_idle(group, heads, width, itemsize, head_block, num_warps, programs):
    constants, warps, per_chunk = blocks(group, heads, width, itemsize, FORWARD_ROWS)
    lanes = 64 if torch.version.hip else 32
    if lanes == 32:
        assert (constants["HEAD_BLOCK"], warps, per_chunk) == (head_block, num_warps, programs)
    assert per_chunk * constants["HEAD_BLOCK"] >= heads > (per_chunk - 1) * constants["HEAD_BLOCK"]
    assert constants["WIDTH_BLOCK"] >= width > constants["WIDTH_BLOCK"] // 2
