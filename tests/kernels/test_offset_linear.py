import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import assert_same, both_precisions, bounds, every_pack, poisoned_empty, randn
from torch import Tensor

from hnet_kernels.case import Sizes
from hnet_kernels.dispatch import backend
from hnet_kernels.offset_linear import triton as kernels
from hnet_kernels.offset_linear.case import CASES
from hnet_kernels.offset_linear.op import offset_linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHORT = [[1], [5], [1, 1, 1, 1], [2, 9, 1, 3], [20, 13]]
NUM_OFFSETS = 4
wrapping = pytest.mark.parametrize("wrap", [False, True], ids=["last", "wrap"])


def unit_by_unit(z: Tensor, weight: Tensor, bias: Tensor | None, lengths: list[int], wrap: bool) -> Tensor:
    rows = []
    for j, length in enumerate(lengths):
        for offset in range(length):
            k = offset % weight.shape[0] if wrap else min(offset, weight.shape[0] - 1)
            rows.append(weight[k] @ z[j] + (0 if bias is None else bias[k]))
    return torch.stack(rows)


def assert_equals_loop(
    lengths: list[int], widths: tuple[int, int], dtype: torch.dtype, wrap: bool, device: str = "cpu"
) -> None:
    """With a bias and without, on numbers that the dtype represents."""
    fan_in, fan_out = widths
    inputs = [randn(len(lengths), fan_in), randn(NUM_OFFSETS, fan_out, fan_in), randn(NUM_OFFSETS, fan_out)]
    inputs = [t.to(dtype).double() for t in inputs]
    offsets = bounds(lengths)
    tolerance = 2e-2 if dtype == torch.bfloat16 else None
    for arguments in (inputs, inputs[:2]):
        assert_same(
            lambda z, weight, bias=None: offset_linear(
                z.to(device),
                weight.to(device),
                offsets.to(device),
                None if bias is None else bias.to(device),
                num_units=int(offsets[-1]),
                wrap=wrap,
            ).to("cpu"),
            lambda z, weight, bias=None: unit_by_unit(z, weight, bias, lengths, wrap),
            arguments,
            dtype,
            tolerance=tolerance,
        )


@every_pack
@both_precisions
@wrapping
def test_equals_a_loop_over_units(lengths, dtype, wrap):
    assert_equals_loop(lengths, (5, 3), dtype, wrap)


@pytest.mark.parametrize("lengths", SHORT, ids=str)
@pytest.mark.parametrize(
    ("dtype", "widths"),
    [(torch.float32, (7, 10)), (torch.bfloat16, (7, 10)), (torch.bfloat16, (8, 16))],
    ids=["fp32", "bf16", "bf16-grouped"],
)
@wrapping
def test_kernels_equal_a_loop_over_units(lengths, dtype, widths, wrap):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, widths, dtype, wrap, DEVICE)


@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    widths=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    wrap=st.booleans(),
)
def test_kernels_on_random_chunks(lengths, widths, wrap):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, widths, torch.float32, wrap, DEVICE)


def test_aligned_bfloat16_goes_to_the_grouped_product_of_the_library(monkeypatch):
    calls = []

    def count(*args: Tensor, **kwargs: Tensor) -> Tensor:
        calls.append([tuple(t.shape) for t in args])
        return grouped_mm(*args, **kwargs)

    grouped_mm = kernels.grouped_mm
    if grouped_mm is None or (DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0)):
        pytest.skip("this PyTorch or this device has no grouped product")
    monkeypatch.setattr(kernels, "grouped_mm", count)
    z, weight = randn(2, 8).to(DEVICE, torch.bfloat16), randn(3, 16, 8).to(DEVICE, torch.bfloat16)
    with backend("triton"):
        offset_linear(z.requires_grad_(), weight.requires_grad_(), bounds([4, 2]).to(DEVICE)).sum().backward()
    # Forward, then the gradients of weight and z.
    assert calls == [[(6, 8), (3, 8, 16)], [(16, 6), (6, 8)], [(6, 16), (3, 16, 8)]]


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_offsets_that_no_unit_has_get_no_gradient(name):
    z, weight = torch.randn(2, 8, device=DEVICE), torch.randn(5, 3, 8, device=DEVICE, requires_grad=True)
    bias = torch.randn(5, 3, device=DEVICE, requires_grad=True)
    with backend(name):
        offset_linear(z, weight, bounds([2, 1]).to(DEVICE), bias).sum().backward()
    assert weight.grad[:2].abs().min() > 0 and weight.grad[2:].abs().max() == 0
    assert bias.grad[:, 0].tolist() == [2.0, 1.0, 0.0, 0.0, 0.0]


def test_the_gradient_of_an_offset_that_no_unit_has_is_zero_whatever_the_library_leaves_there(monkeypatch):
    def leaves_gaps(left: Tensor, right: Tensor, *, offs: Tensor) -> Tensor:
        if right.dim() == 3:
            parts = zip([0, *offs.tolist()], offs.tolist(), right, strict=False)
            return torch.cat([left[start:stop] @ matrix for start, stop, matrix in parts])
        out = left.new_full((offs.shape[0], left.shape[0], right.shape[1]), float("nan"))
        for product, start, stop in zip(out, [0, *offs.tolist()], offs.tolist(), strict=False):
            if stop > start:
                product.copy_(left[:, start:stop] @ right[start:stop])
        return out

    monkeypatch.setattr(kernels, "grouped_mm", leaves_gaps)
    monkeypatch.setattr(kernels, "can_group", lambda z, weight: True)
    z, weight = torch.randn(2, 8, device=DEVICE), torch.randn(4, 8, 8, device=DEVICE, requires_grad=True)
    with backend("triton"):
        out = offset_linear(z, weight, bounds([1, 2]).to(DEVICE), num_units=3)
        (grad,) = torch.autograd.grad(out.sum(), weight)
    assert grad[:2].isfinite().all() and grad[:2].any() and torch.equal(grad[2:], torch.zeros_like(grad[2:]))


def test_weights_of_another_dtype_are_cast_and_get_gradients_of_their_own():
    z, weight = randn(2, 4).bfloat16(), randn(3, 5, 4).float().requires_grad_()
    out = offset_linear(z, weight, bounds([4, 2]))
    out.sum().backward()
    assert out.dtype == torch.bfloat16 and weight.grad.dtype == torch.float32
    torch.testing.assert_close(out, offset_linear(z, weight.detach().bfloat16(), bounds([4, 2])), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weight", "bias", "offsets", "message"),
    [
        ((3, 5, 4), None, [0, 2, 6], "weight must have shape"),
        ((5, 3), None, [0, 2, 6], "weight must have shape"),
        ((3, 5, 3), (5,), [0, 2, 6], "bias must have shape"),
        ((3, 5, 3), None, [0, 6], "chunk_offsets must have 3 elements"),
        ((3, 5, 3), None, [0, 6, 6], "chunk_offsets must rise strictly"),
        ((3, 5, 3), None, [1, 2, 6], "chunk_offsets must run from 0 to 6"),
    ],
)
def test_wrong_arguments_are_refused(weight, bias, offsets, message):
    with pytest.raises(ValueError, match=message):
        offset_linear(
            torch.randn(2, 3),
            torch.randn(weight),
            torch.tensor(offsets, dtype=torch.int32),
            None if bias is None else torch.randn(bias),
        )


@pytest.mark.parametrize("with_bias", [True, False])
def test_registration(with_bias):
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    z, weight = randn(3, 4).requires_grad_(), randn(4, 2, 4).requires_grad_()
    bias = randn(4, 2).requires_grad_() if with_bias else None
    inputs = (z, weight, bounds([5, 1, 2]), bias, 8, False)
    results = torch.library.opcheck(torch.ops.hnet.offset_linear.default, inputs, test_utils=checks)
    assert set(results.values()) == {"SUCCESS"}


def test_is_captured_as_one_graph_with_its_backward():
    def squares(z: Tensor, weight: Tensor, offsets: Tensor, units: Tensor) -> Tensor:
        return offset_linear(z, weight, offsets, num_units=units.shape[0]).square()

    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    weight = randn(3, 2, 4).requires_grad_()
    for lengths in ([5, 1, 2], [3, 3, 1, 4], [2, 9]):
        z, offsets, units = randn(len(lengths), 4).requires_grad_(), bounds(lengths), torch.empty(sum(lengths))
        out, expected = compiled(z, weight, offsets, units), squares(z, weight, offsets, units)
        torch.testing.assert_close(out, expected)
        for got, want in zip(
            torch.autograd.grad(out.sum(), (z, weight)), torch.autograd.grad(expected.sum(), (z, weight)), strict=True
        ):
            torch.testing.assert_close(got, want)


def test_case_equals_its_eager_composition():
    (case,) = CASES
    sizes = Sizes(num_units=60, num_chunks=5, width=6, num_documents=2, dtype=torch.float32)
    inputs = case.inputs(sizes)
    out, eager = case.run(**inputs), case.others["eager"](**inputs)
    torch.testing.assert_close(out, eager)
    leaves, grad = (inputs["z"], inputs["weight"]), torch.randn_like(out)
    for got, want in zip(torch.autograd.grad(out, leaves, grad), torch.autograd.grad(eager, leaves, grad), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    forward, backward = case.floor(sizes)
    assert forward >= (65 + 16 * 6) * 24 and backward > forward
