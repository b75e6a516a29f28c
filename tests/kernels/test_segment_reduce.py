import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import assert_same, both_precisions, bounds, every_pack, poisoned_empty, randn
from torch import Tensor

from hnet_kernels.dispatch import backend
from hnet_kernels.segment_reduce import triton as kernels
from hnet_kernels.segment_reduce.case import CASES
from hnet_kernels.segment_reduce.op import segment_reduce

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
REDUCTIONS = ["mean", "max", "sum", "first", "last"]
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
SHORT = [[1], [5], [1, 1, 1, 1], [4, 8], [9, 1, 3, 17], [33]]


def unit_by_unit(x: Tensor, offsets: list[int], reduction: str) -> Tensor:
    rows = []
    for start, stop in zip(offsets, offsets[1:], strict=False):
        row = x[start]
        for t in range(start + 1, stop):
            if reduction == "max":
                # A strict comparison: the gradient of a tie goes to the first unit.
                row = torch.where(x[t] > row, x[t], row)
            elif reduction in ("mean", "sum"):
                row = row + x[t]
            elif reduction == "last":
                row = x[t]
        rows.append(row / (stop - start) if reduction == "mean" else row)
    return torch.stack(rows)


def with_ties(num_units: int, width: int) -> Tensor:
    """Values on a grid so coarse that a chunk's maximum is attained more than once."""
    return torch.randint(-2, 3, (num_units, width), dtype=torch.float64)


def assert_equals_loop(lengths: list[int], width: int, reduction: str, dtype: torch.dtype, device: str = "cpu") -> None:
    offsets = bounds(lengths)
    num_units = int(offsets[-1])
    for x in (randn(num_units, width), with_ties(num_units, width)):
        x = x.bfloat16().double() if dtype == torch.bfloat16 else x
        assert_same(
            lambda x: segment_reduce(x.to(device), offsets.to(device), reduction).to("cpu"),
            lambda x: unit_by_unit(x, offsets.tolist(), reduction),
            [x],
            dtype,
            tolerance=1e-2 if dtype == torch.bfloat16 else None,
        )


@every_pack
@both_precisions
@every_reduction
def test_equals_a_loop_over_units(lengths, dtype, reduction):
    assert_equals_loop(lengths, 5, reduction, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("lengths", SHORT, ids=str)
@every_reduction
def test_kernels_equal_a_loop_over_units(lengths, reduction, dtype):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, 7, reduction, dtype, DEVICE)


@pytest.mark.parametrize(
    "lengths", [[9], [8], [20, 21], [3, 9, 9, 1, 8], [1] * 7 + [30], [30, 1, 1], [5, 14, 12, 40]], ids=str
)
@every_reduction
def test_long_chunks_are_shared_by_programs(lengths, reduction, monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 8)
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, 7, reduction, torch.float32, DEVICE)


def test_long_chunks_keep_the_first_of_equal_maxima_and_nans(monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 4)
    x = torch.zeros(21, 3, device=DEVICE)
    x[2, 0] = x[9, 0] = x[18, 0] = 1.0
    x[13, 1] = x[17, 1] = float("nan")
    with backend("triton"):
        out, argmax = torch.ops.hnet.segment_reduce(x, bounds([1, 20]).to(DEVICE), "max")
    assert argmax[1].tolist() == [2, 13, 1] and out[1, 0] == 1 and bool(out[1, 1].isnan())


@pytest.mark.parametrize("width", [1, 70, 384])
@every_reduction
def test_kernels_take_any_width(width, reduction):
    with backend("triton"), poisoned_empty():
        assert_equals_loop([3, 6, 1], width, reduction, torch.float32, DEVICE)


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    width=st.integers(1, 40),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_kernels_on_random_chunks(lengths, width, reduction):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, width, reduction, torch.float32, DEVICE)


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_maximum_keeps_infinities_and_the_first_nan(name):
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([[-inf, 1.0, 2.0], [-inf, nan, inf], [-inf, 3.0, inf], [0.0, nan, -inf]], device=DEVICE)
    x.requires_grad_()
    with backend(name):
        out = segment_reduce(x, bounds([3, 1]).to(DEVICE), "max")
        out.backward(torch.ones_like(out))
    expected = torch.tensor([[-inf, nan, inf], [0.0, nan, -inf]], device=DEVICE)
    torch.testing.assert_close(out.detach(), expected, rtol=0, atol=0, equal_nan=True)
    receivers = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 1]], device=DEVICE)
    torch.testing.assert_close(x.grad, receivers, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reference", "triton"])
@every_reduction
def test_accepts_strided_inputs_and_gradients(name, reduction):
    x = randn(6, 10).float().t().to(DEVICE).requires_grad_()
    offsets = bounds([4, 1, 5]).to(DEVICE)
    with backend(name):
        segment_reduce(x, offsets, reduction).sum().backward()
    expected = torch.autograd.grad(unit_by_unit(x, offsets.tolist(), reduction).sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)


def test_sums_of_half_precision_are_kept_in_float32():
    x = torch.full((600, 1), 1.0, dtype=torch.bfloat16)
    x[0] = 256.0
    assert segment_reduce(x, bounds([600]), "sum").item() == torch.tensor(855.0).bfloat16().item()


def test_unknown_reduction_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="mean, max, sum, first, last, got 'median'"):
        segment_reduce(torch.randn(3, 2), bounds([3]), "median")


@pytest.mark.parametrize("wrong", [[0, 2, 2, 5], [0, 3], [1, 5], [0], [0, 4, 2, 5]], ids=str)
def test_wrong_offsets_are_refused(wrong):
    with pytest.raises(ValueError, match="chunk_offsets"):
        segment_reduce(torch.randn(5, 2), torch.tensor(wrong, dtype=torch.int32), "mean")


@every_reduction
def test_registration(reduction):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    inputs = (randn(8, 3).requires_grad_(), bounds([5, 1, 2]), reduction)
    results = torch.library.opcheck(torch.ops.hnet.segment_reduce.default, inputs, test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


@every_reduction
def test_is_captured_as_one_graph_with_its_backward(reduction):
    compiled = torch.compile(
        lambda x, offsets: segment_reduce(x, offsets, reduction).square(), backend="aot_eager", fullgraph=True
    )
    for lengths in ([5, 1, 2], [3, 3, 1, 4], [2, 9]):
        x, offsets = randn(sum(lengths), 3).requires_grad_(), bounds(lengths)
        out = compiled(x, offsets)
        expected = segment_reduce(x, offsets, reduction).square()
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), x), torch.autograd.grad(expected.sum(), x))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case_equals_its_eager_composition(case):
    from hnet_kernels.case import Sizes

    sizes = Sizes(num_units=40, num_chunks=11, width=6, num_documents=3, dtype=torch.float32)
    inputs = case.inputs(sizes)
    out, eager = case.run(**inputs), case.others["eager"](**inputs)
    torch.testing.assert_close(out, eager)
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs["x"], grad), torch.autograd.grad(eager, inputs["x"], grad)
    )
    forward, backward = case.floor(sizes)
    # Of a chunk's units the last alone is read; all of them get a gradient.
    rows_read = 11 if case.name == "segment_last" else 40
    assert forward >= (rows_read + 11) * 6 * 4 and backward >= (40 + 11) * 6 * 4
