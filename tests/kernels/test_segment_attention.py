"""Pooling and unpooling by cross-attention: the reference against a loop over chunks, and what holds by definition."""

import pytest
import torch
from packs import assert_same, both_precisions, bounds, every_pack, randn
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from hnet_kernels.case import Sizes
from hnet_kernels.segment_attention.case import CASES
from hnet_kernels.segment_attention.op import pool_attention, unpool_attention

HEADS, WIDTH = 2, 5
LENGTHS = [3, 1, 6, 2]
every_group = pytest.mark.parametrize("group", [1, 2, 3])
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def softmax_average(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """One head: q (n,P), k and v (m,P)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return torch.softmax(q @ k.T * scale, -1) @ v


def pool_loop(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float | None = None) -> Tensor:
    chunks = []
    for j, (a, b) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        heads = [softmax_average(q[j, :, h], k[a:b, h], v[a:b, h], scale) for h in range(q.shape[2])]
        chunks.append(torch.stack(heads, 1))
    return torch.stack(chunks)


def unpool_loop(q: Tensor, k: Tensor, v: Tensor, offsets: Tensor, scale: float | None = None) -> Tensor:
    first, last = int(offsets[0]), int(offsets[-1])
    parts = [torch.zeros_like(q[:first])]
    for j, (a, b) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
        heads = [softmax_average(q[a:b, h], k[j, :, h], v[j, :, h], scale) for h in range(q.shape[1])]
        parts.append(torch.stack(heads, 1))
    return torch.cat([*parts, torch.zeros_like(q[last:])])


def pool_inputs(lengths: list[int], group: int, heads: int = HEADS, width: int = WIDTH) -> list[Tensor]:
    units = (sum(lengths), heads, width)
    return [randn(len(lengths), group, heads, width), randn(*units), randn(*units)]


def unpool_inputs(
    lengths: list[int], group: int, outside: int = 0, heads: int = HEADS, width: int = WIDTH
) -> list[Tensor]:
    chunks = (len(lengths), group, heads, width)
    return [randn(sum(lengths) + outside, heads, width), randn(*chunks), randn(*chunks)]


@every_pack
@both_precisions
@every_group
def test_pooling_agrees_with_a_loop_over_chunks(lengths, dtype, group):
    offsets = bounds(lengths)
    inputs = pool_inputs(lengths, group)
    assert_same(lambda *t: pool_attention(*t, offsets), lambda *t: pool_loop(*t, offsets), inputs, dtype)


@every_pack
@both_precisions
@every_group
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 2)], ids=["covered", "outside"])
def test_unpooling_agrees_with_a_loop_over_chunks(lengths, dtype, group, before, after):
    offsets = bounds(lengths) + before
    inputs = unpool_inputs(lengths, group, before + after)
    assert_same(lambda *t: unpool_attention(*t, offsets), lambda *t: unpool_loop(*t, offsets), inputs, dtype)


@pytest.mark.parametrize("scale", [0.0, 0.3, -2.0])
def test_scale_multiplies_the_scores(scale):
    offsets = bounds(LENGTHS)
    assert_same(
        lambda *t: pool_attention(*t, offsets, scale=scale),
        lambda *t: pool_loop(*t, offsets, scale),
        pool_inputs(LENGTHS, 2),
        torch.float64,
    )
    assert_same(
        lambda *t: unpool_attention(*t, offsets, scale=scale),
        lambda *t: unpool_loop(*t, offsets, scale),
        unpool_inputs(LENGTHS, 2),
        torch.float64,
    )


def test_a_segment_of_a_thousand_units():
    lengths = [1, 1000, 2]
    offsets = bounds(lengths)
    inputs = pool_inputs(lengths, 1, 1, 2)
    assert_same(lambda *t: pool_attention(*t, offsets), lambda *t: pool_loop(*t, offsets), inputs, torch.float32)
    inputs = unpool_inputs(lengths, 2, 0, 1, 2)
    assert_same(lambda *t: unpool_attention(*t, offsets), lambda *t: unpool_loop(*t, offsets), inputs, torch.float32)


def test_packs_longer_than_one_block_of_the_reference():
    lengths = [100, 1, 300, 60]
    offsets = bounds(lengths)
    inputs = pool_inputs(lengths, 2, 16, 64)
    assert_same(lambda *t: pool_attention(*t, offsets), lambda *t: pool_loop(*t, offsets), inputs, torch.float64)
    inputs = unpool_inputs(lengths, 2, 0, 16, 64)
    assert_same(lambda *t: unpool_attention(*t, offsets), lambda *t: unpool_loop(*t, offsets), inputs, torch.float64)


def test_units_of_one_chunk_do_not_change_another_chunk():
    offsets = bounds(LENGTHS)
    q, k, v = pool_inputs(LENGTHS, 2)
    before = pool_attention(q, k, v, offsets)
    k[4:10], v[4:10] = 1e6, -1e6
    after = pool_attention(q, k, v, offsets)
    others = [0, 1, 3]
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=0)
    assert not torch.equal(after[2], before[2])


def test_keys_of_one_chunk_do_not_change_units_of_another():
    offsets = bounds(LENGTHS)
    q, k, v = unpool_inputs(LENGTHS, 2)
    before = unpool_attention(q, k, v, offsets)
    k[2], v[2] = 1e6, -1e6
    after = unpool_attention(q, k, v, offsets)
    torch.testing.assert_close(after[:4], before[:4], rtol=0, atol=0)
    torch.testing.assert_close(after[10:], before[10:], rtol=0, atol=0)
    assert not torch.equal(after[4:10], before[4:10])


def test_order_within_a_chunk_does_not_matter_to_pooling():
    offsets = bounds(LENGTHS)
    q, k, v = pool_inputs(LENGTHS, 2)
    order = torch.cat([a + torch.randperm(n) for a, n in zip(offsets.tolist(), LENGTHS, strict=False)])
    assert not torch.equal(order, torch.arange(len(order)))
    torch.testing.assert_close(pool_attention(q, k[order], v[order], offsets), pool_attention(q, k, v, offsets))


def test_one_unit_or_one_key_is_copied():
    q, k, v = pool_inputs([1, 1, 1], 2)
    torch.testing.assert_close(pool_attention(q, k, v, bounds([1, 1, 1])), v[:, None].expand_as(q))
    q, k, v = unpool_inputs(LENGTHS, 1)
    expected = v[:, 0].repeat_interleave(torch.tensor(LENGTHS), 0)
    torch.testing.assert_close(unpool_attention(q, k, v, bounds(LENGTHS)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_of_ten_thousand_do_not_overflow(dtype):
    """Softmax is then a choice of the largest score, and gradients of q and k vanish."""
    offsets = bounds([4, 3])
    score = torch.tensor([-1e4, 1e4, 0.0, 5e3, 1e4, -1e4, 2e3])
    k = score[:, None, None].to(dtype).requires_grad_()
    v = torch.arange(7.0)[:, None, None].to(dtype).requires_grad_()
    q = torch.ones(2, 1, 1, 1, dtype=dtype, requires_grad=True)
    out = pool_attention(q, k, v, offsets)
    assert out.flatten().tolist() == [1.0, 4.0]
    dq, dk, dv = torch.autograd.grad(out.sum(), (q, k, v))
    assert dq.abs().max() == 0 and dk.abs().max() == 0
    assert dv.flatten().tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    keys, values = k.detach()[None, :4].clone().requires_grad_(), v.detach()[None, :4].clone().requires_grad_()
    units = torch.tensor([1.0, -1.0]).to(dtype).view(2, 1, 1).requires_grad_()
    out = unpool_attention(units, keys, values, bounds([2]))
    assert out.flatten().tolist() == [1.0, 0.0]
    dq, dk, dv = torch.autograd.grad(out.sum(), (units, keys, values))
    assert dq.abs().max() == 0 and dk.abs().max() == 0
    assert dv.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]


def test_what_units_outside_hold_is_not_looked_at():
    offsets = bounds([3, 2]) + 2
    q, k, v = unpool_inputs([3, 2], 2, 4)
    q[:2], q[7:] = torch.nan, torch.inf
    grad = randn(9, HEADS, WIDTH)
    grad[:2], grad[7:] = torch.inf, torch.nan
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = unpool_attention(*leaves, offsets)
    dq, dk, dv = torch.autograd.grad(out, leaves, grad)
    for rows in (out[:2], out[7:], dq[:2], dq[7:]):
        assert rows.abs().max() == 0
    assert all(t.isfinite().all() for t in (out, dq, dk, dv))


def test_slices_of_one_projection_and_an_expanded_query_give_their_gradients():
    offsets = bounds(LENGTHS)
    query, keys_values = randn(1, 2, HEADS, WIDTH), randn(sum(LENGTHS), 2, HEADS, WIDTH)

    def through(op):
        return lambda q, kv: op(q.expand(len(LENGTHS), -1, -1, -1), *kv.unbind(1), offsets)

    assert_same(through(pool_attention), through(pool_loop), [query, keys_values], torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    offsets = bounds(LENGTHS)
    for op, inputs in ((pool_attention, pool_inputs(LENGTHS, 2)), (unpool_attention, unpool_inputs(LENGTHS, 2))):
        narrow = [t.to(dtype).requires_grad_() for t in inputs]
        wide = [t.detach().float().requires_grad_() for t in narrow]
        out, expected = op(*narrow, offsets), op(*wide, offsets)
        assert out.dtype == dtype
        torch.testing.assert_close(out, expected.to(dtype), rtol=0, atol=0)
        grads = torch.autograd.grad(out.sum(), narrow)
        for got, want in zip(grads, torch.autograd.grad(expected.sum(), wide), strict=True):
            assert got.dtype == dtype
            # The output that delta is computed from has been rounded.
            torch.testing.assert_close(got.float(), want, rtol=2e-2, atol=2e-2)


def test_gradcheck():
    offsets = bounds(LENGTHS)
    for op, inputs in ((pool_attention, pool_inputs(LENGTHS, 2)), (unpool_attention, unpool_inputs(LENGTHS, 2))):
        assert torch.autograd.gradcheck(lambda *t, op=op: op(*t, offsets), [t.requires_grad_() for t in inputs])


@pytest.mark.parametrize(
    "wrong", [[0, 3, 3, 10, 12], [0, 3, 4, 10, 13], [-1, 3, 4, 10, 12], [0, 4, 3, 10, 12], [0, 12]]
)
def test_wrong_offsets_are_refused(wrong):
    offsets = torch.tensor(wrong, dtype=torch.int32)
    with pytest.raises(ValueError, match="chunk_offsets must"):
        pool_attention(*pool_inputs(LENGTHS, 1), offsets)
    with pytest.raises(ValueError, match="chunk_offsets must"):
        unpool_attention(*unpool_inputs(LENGTHS, 1), offsets)


def test_pooling_wants_every_unit_in_a_chunk():
    q, k, v = pool_inputs(LENGTHS, 1)
    with pytest.raises(ValueError, match="from 0 to 13"):
        pool_attention(q, torch.cat([k, k[:1]]), torch.cat([v, v[:1]]), bounds(LENGTHS))


def test_shapes_and_dtypes_that_do_not_fit_are_refused():
    offsets = bounds(LENGTHS)
    q, k, v = pool_inputs(LENGTHS, 1)
    with pytest.raises(ValueError, match="one shape"):
        pool_attention(q, k, v[:-1], offsets)
    with pytest.raises(ValueError, match="one shape"):
        pool_attention(q[..., :-1], k, v, offsets)
    with pytest.raises(ValueError, match="one dtype"):
        pool_attention(q, k, v.float(), offsets)
    with pytest.raises(ValueError, match="one shape"):
        unpool_attention(k, q, q[:, 0], offsets)


OPCHECK = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize(("name", "make"), [("pool_attention", pool_inputs), ("unpool_attention", unpool_inputs)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_registration_of_the_op(name, make, dtype):
    inputs = [t.to(dtype).requires_grad_() for t in make(LENGTHS, 2)]
    op = getattr(torch.ops.hnet, name).default
    checks = torch.library.opcheck(op, (*inputs, bounds(LENGTHS), 0.5), test_utils=OPCHECK)
    assert set(checks) == set(OPCHECK) and set(checks.values()) == {"SUCCESS"}


@pytest.mark.parametrize(("op", "make"), [(pool_attention, pool_inputs), (unpool_attention, unpool_inputs)])
def test_one_graph_serves_every_size(op, make):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(op, backend=counter, fullgraph=True, dynamic=True)
    # None of the first sizes are equal by chance: equal ones would be taken to be one size.
    for lengths in ([3, 1, 6, 2, 1, 1], [2, 2, 5], [7, 1, 1, 1, 4]):
        inputs = [t.requires_grad_() for t in make(lengths, 2)]
        out, expected = compiled(*inputs, bounds(lengths)), op(*inputs, bounds(lengths))
        torch.testing.assert_close(out, expected)
        grads, wanted = (torch.autograd.grad(x.square().sum(), inputs) for x in (out, expected))
        for got, want in zip(grads, wanted, strict=True):
            torch.testing.assert_close(got, want)
    assert counter.frame_count == 1


@every_case
@pytest.mark.parametrize("other", ["eager", "padded_sdpa"])
def test_compositions_to_compare_with_give_the_same(case, other):
    inputs = case.inputs(
        Sizes(num_units=60, num_chunks=13, width=24, num_documents=3, num_heads=4, dtype=torch.float64)
    )
    leaves = [inputs[name] for name in "qkv"]
    out, expected = case.others[other](**inputs), case.run(**inputs)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)
    grad = torch.randn_like(expected)
    grads = torch.autograd.grad(out, leaves, grad.to(out.dtype)), torch.autograd.grad(expected, leaves, grad)
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("case", "forward", "backward"), [(CASES[0], 2.4, 4.8), (CASES[1], 2.8, 4.6)])
def test_floor_at_five_units_a_chunk(case, forward, backward):
    sizes = Sizes(num_units=1000, num_chunks=200, width=64)
    unit = 1000 * 64 * 2
    assert case.floor(sizes) == pytest.approx((forward * unit, backward * unit))
