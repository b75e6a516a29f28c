"""The Triton kernels of `upsample` against its reference in float64."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import poisoned_empty, randn
from torch import Tensor

from hnet_kernels import upsample
from hnet_kernels.dispatch import backend
from hnet_kernels.upsample import triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Half a unit in the last place of bfloat16 is 2^-9; the interpreter truncates instead of rounding.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
TILE, REACH = 8, 5


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles longer than the short chunks and shorter than the long ones, some of which no tile walks to the end."""
    monkeypatch.setattr(kernels, "TILE", TILE)
    monkeypatch.setattr(kernels, "REACH", REACH)


def run(
    zbar: Tensor, confidence: Tensor, residual: Tensor, grad: Tensor, index: Tensor, offsets: Tensor | None
) -> list[Tensor]:
    """The output in grad's dtype and the gradients of zbar, confidence and residual."""
    leaves = [t.detach().requires_grad_() for t in (zbar, confidence, residual)]
    zbar, confidence, residual = leaves
    out = upsample(zbar, index, confidence, residual, chunk_offsets=offsets, out_dtype=grad.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def assert_kernels_agree(
    lengths: Sequence[int],
    width: int,
    zbar_dtype: torch.dtype = torch.float32,
    residual_dtype: torch.dtype = torch.float32,
    out_dtype: torch.dtype = torch.float32,
    with_offsets: bool = True,
) -> None:
    counts = torch.tensor(lengths, device=DEVICE)
    index = torch.repeat_interleave(torch.arange(len(lengths), device=DEVICE), counts)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int() if with_offsets else None
    zbar = randn(len(lengths), width).to(DEVICE, zbar_dtype)
    confidence = torch.rand(sum(lengths), device=DEVICE)
    residual = randn(sum(lengths), width).to(DEVICE, residual_dtype)
    grad = randn(sum(lengths), width).to(DEVICE, out_dtype)
    with backend("reference"):
        expected = run(zbar.double(), confidence.double(), residual.double(), grad.double(), index, offsets)
    with backend("triton"), poisoned_empty():
        measured = run(zbar, confidence, residual, grad, index, offsets)
    dtypes = (out_dtype, zbar_dtype, torch.float32, residual_dtype)
    for want, got, dtype in zip(expected, measured, dtypes, strict=True):
        assert got.dtype == dtype and got.shape == want.shape
        assert float((got.double() - want).abs().max()) <= TOLERANCE[dtype] * float(want.abs().max())


CHUNKS = [[1], [7], [1] * 19, [8, 8, 8], [60], [1, 30, 1, 1, 4, 9, 2], [5, 3, 8, 16, 1], [7, 2, 40], [2, 18, 22, 4]]
every_chunking = pytest.mark.parametrize("lengths", CHUNKS, ids=lambda lengths: "-".join(map(str, lengths[:5])))
DTYPES = [
    (torch.float32, torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32, torch.float32),
    (torch.float32, torch.bfloat16, torch.bfloat16),
]


@every_chunking
@pytest.mark.usefixtures("small_tiles")
def test_chunks_shorter_and_longer_than_a_tile(lengths):
    assert_kernels_agree(lengths, 5)


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: "-".join(str(d).removeprefix("torch.") for d in dtypes))
@pytest.mark.usefixtures("small_tiles")
def test_dtypes_may_differ(dtypes):
    assert_kernels_agree([3, 1, 12, 4], 6, *dtypes)


@every_chunking
@pytest.mark.usefixtures("small_tiles")
def test_offsets_are_derived_from_the_index(lengths):
    assert_kernels_agree(lengths, 2, with_offsets=False)


@pytest.mark.parametrize("width", [1, 70, 600, 1100])
def test_rows_wider_than_a_program_and_no_power_of_two(width):
    assert_kernels_agree([2, 3], width)


def test_tiles_of_the_size_that_is_used():
    assert_kernels_agree([1, 130, 2, 390, 3], 2)


def test_residual_gets_the_gradient_itself():
    zbar, residual = torch.ones(2, 3, device=DEVICE), torch.ones(4, 3, device=DEVICE, requires_grad=True)
    index, confidence = torch.tensor([0, 0, 1, 1], device=DEVICE), torch.ones(4, device=DEVICE)
    grad = torch.rand(4, 3, device=DEVICE)
    with backend("triton"):
        out = upsample(zbar, index, confidence, residual)
        (dresidual,) = torch.autograd.grad(out, residual, grad)
    assert dresidual.data_ptr() == grad.data_ptr()


def test_gradient_may_be_broadcast():
    zbar, residual = torch.ones(2, 3, device=DEVICE, requires_grad=True), torch.ones(5, 3, device=DEVICE)
    index, confidence = torch.tensor([0, 0, 0, 1, 1], device=DEVICE), torch.ones(5, device=DEVICE)
    with backend("triton"):
        (dzbar,) = torch.autograd.grad(upsample(zbar, index, confidence, residual).sum(), zbar)
    assert dzbar.tolist() == [[3.0] * 3, [2.0] * 3]


@settings(max_examples=8)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 6), st.integers(1, 30)), min_size=1, max_size=3),
    width=st.integers(1, 5),
    dtypes=st.sampled_from(DTYPES),
    with_offsets=st.booleans(),
)
def test_any_chunks_of_any_width(lengths, width, dtypes, with_offsets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "TILE", TILE)
        patch.setattr(kernels, "REACH", REACH)
        assert_kernels_agree(lengths, width, *dtypes, with_offsets=with_offsets)
