from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds, poisoned_empty, randn
from torch import Tensor

from hnet_kernels.case import Sizes
from hnet_kernels.dispatch import backend
from hnet_kernels.hash_ngram import reference
from hnet_kernels.hash_ngram.case import CASES
from hnet_kernels.hash_ngram.op import hash_ngram, hash_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The first primes of BLT; the second and third do not fit in 32 bits.
PRIMES = [1000000007, 5915587277, 9576890767]
SIZES = [3, 4, 5, 6, 7, 8]
PACKS = [[1], [9], [1, 1, 1, 1], [2, 12, 1, 20], [31, 33]]
both = pytest.mark.parametrize("name", ["reference", "triton"])
every_pack = pytest.mark.parametrize("lengths", PACKS, ids=str)


def row_by_row(
    ids: list[int], lengths: list[int], sizes: list[int], primes: list[int], num_rows: int
) -> list[list[int]]:
    """Rows of each table, in Python's unbounded integers."""
    rows = []
    start = 0
    for length in lengths:
        for t in range(start, start + length):
            row = []
            for prime in primes:
                for size in sizes:
                    window = [ids[u] if u >= start else 0 for u in range(t - size + 1, t + 1)]
                    value = sum(unit * prime**power for power, unit in enumerate(window)) % 2**64
                    signed = value - 2**64 if value >= 2**63 else value
                    row.append(signed % num_rows)
            rows.append(row)
        start += length
    return rows


def unit_by_unit(tables: Tensor, rows: list[list[int]]) -> Tensor:
    return torch.stack([sum(tables[n, v] for n, v in enumerate(row)) for row in rows])


def assert_equals_loop(
    lengths: list[int], sizes: list[int], primes: list[int], num_rows: int, width: int, dtype: torch.dtype
) -> None:
    """Forward and gradient against the loop in float64, on numbers that the dtype represents."""
    num_units = sum(lengths)
    # Few symbols, so that many n-grams occur again.
    ids = torch.randint(0, 3, (num_units,))
    tables = randn(len(sizes) * len(primes), num_rows, width).to(dtype).double().requires_grad_()
    grad = randn(num_units, width).to(dtype).double()
    expected = unit_by_unit(tables, row_by_row(ids.tolist(), lengths, sizes, primes, num_rows))
    (dtables,) = torch.autograd.grad(expected, tables, grad)
    leaf = tables.detach().to(DEVICE, dtype).requires_grad_()
    out = hash_ngram(ids.to(DEVICE), leaf, bounds(lengths).to(DEVICE), sizes, primes)
    (got,) = torch.autograd.grad(out, leaf, grad.to(DEVICE, dtype))
    assert out.dtype == dtype and got.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    for actual, want in ((out.detach(), expected.detach()), (got, dtables)):
        assert float((actual.cpu().double() - want).abs().max()) <= tolerance * float(want.abs().max())


@both
@every_pack
@pytest.mark.parametrize("primes", [PRIMES[:1], PRIMES[1:]], ids=["one", "two"])
def test_rows_are_the_wrapped_polynomial(name, lengths, primes):
    ids = torch.randint(-1, 260, (sum(lengths),))
    with backend(name):
        rows = hash_rows(ids.to(DEVICE), bounds(lengths).to(DEVICE), SIZES, primes, 500_002).cpu()
    assert rows.dtype == torch.int32
    tables = torch.arange(len(SIZES) * len(primes)) * 500_002
    assert (rows - tables).tolist() == row_by_row(ids.tolist(), lengths, SIZES, primes, 500_002)


@both
def test_negative_hashes_give_rows_of_the_table(name):
    ids = torch.randint(200, 256, (40,))
    hashes = [sum(int(ids[t - 7 + i]) * PRIMES[0] ** i for i in range(8)) % 2**64 for t in range(7, 40)]
    assert {value >= 2**63 for value in hashes} == {True, False}
    with backend(name):
        rows = hash_rows(ids.to(DEVICE), bounds([40]).to(DEVICE), [8], PRIMES[:1], 1000).cpu()
    assert rows.tolist() == row_by_row(ids.tolist(), [40], [8], PRIMES[:1], 1000)


@both
def test_sizes_may_come_in_any_order(name):
    ids = torch.randint(0, 260, (20,))
    with backend(name):
        rows = hash_rows(ids.to(DEVICE), bounds([13, 7]).to(DEVICE), [5, 1, 2], PRIMES[:2], 97).cpu()
    assert (rows - torch.arange(6) * 97).tolist() == row_by_row(ids.tolist(), [13, 7], [5, 1, 2], PRIMES[:2], 97)


def test_rows_equal_the_windows_and_powers_of_blt_within_one_document():
    # The formulation of the official code, for a batch of one row: zeros in front, windows, powers of the prime.
    ids = torch.randint(4, 260, (50,))
    rows = hash_rows(ids, bounds([50]), SIZES, PRIMES[:2], 500_002)
    column = 0
    for prime in PRIMES[:2]:
        for size in SIZES:
            windows = torch.cat([ids.new_zeros(size - 1), ids]).unfold(0, size, 1)
            powers = torch.stack([torch.tensor(prime) ** i for i in range(size)])
            assert torch.equal(rows[:, column].long() - column * 500_002, (windows * powers).sum(-1) % 500_002)
            column += 1


@every_pack
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=["fp64", "fp32", "bf16"])
def test_equals_a_loop_over_units(lengths, dtype):
    assert_equals_loop(lengths, [1, 2, 4], PRIMES[:2], 11, 5, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@every_pack
def test_kernels_equal_a_loop_over_units(lengths, dtype):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, [1, 3], PRIMES[:1], 11, 7, dtype)


@pytest.mark.parametrize("width", [1, 70, 384])
def test_kernels_take_any_width(width):
    with backend("triton"), poisoned_empty():
        assert_equals_loop([9, 4], [2, 3], PRIMES[:1], 7, width, torch.float32)


@settings(max_examples=6)
@given(
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    num_rows=st.integers(1, 30),
)
def test_kernels_on_random_packs(lengths, sizes, num_rows):
    with backend("triton"), poisoned_empty():
        assert_equals_loop(lengths, sizes, PRIMES[1:2], num_rows, 6, torch.float32)


@pytest.mark.parametrize(
    "runs",
    [[150], [32], [33], [31, 2], [31, 64, 1], [32, 32, 32], [1] * 40, [20, 12, 40, 3, 60], [64, 65]],
    ids=str,
)
def test_rows_hit_more_often_than_a_program_adds_up(runs):
    # Row v of the only table is hit by runs[v] units, at random places; a program takes 32 pairs.
    units = torch.cat([torch.full((count,), row) for row, count in enumerate(runs)])
    rows = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(0))].int().unsqueeze(1)
    grad = randn(len(units), 3)
    expected = reference.hash_ngram_backward(grad, rows, len(runs) + 2)
    assert Counter(rows[:, 0].tolist()) == Counter(dict(enumerate(runs)))
    with backend("triton"), poisoned_empty():
        got = torch.ops.hnet.hash_ngram_backward(grad.float().to(DEVICE), rows.to(DEVICE), len(runs) + 2)
    torch.testing.assert_close(got.cpu().double(), expected, rtol=1e-5, atol=1e-5)


def test_documents_do_not_see_each_other():
    ids, tables = torch.randint(0, 260, (14,)), randn(6, 50, 3)
    packed = hash_ngram(ids, tables, bounds([6, 8]), SIZES, PRIMES[:1])
    alone = [hash_ngram(part, tables, bounds([len(part)]), SIZES, PRIMES[:1]) for part in ids.split([6, 8])]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sizes", "primes", "shape", "message"),
    [
        ([3, 4], [7], (3, 5, 2), r"tables must have shape \(1 primes \* 2 sizes, V, D\)"),
        ([3], [7], (1, 5), "tables must have shape"),
        ([], [7], (0, 5, 2), "sizes must be"),
        ([3, 0], [7], (2, 5, 2), "sizes must be"),
    ],
)
def test_wrong_arguments_are_refused(sizes, primes, shape, message):
    with pytest.raises(ValueError, match=message):
        hash_ngram(torch.zeros(4, dtype=torch.int64), torch.zeros(shape), bounds([4]), sizes, primes)


def test_more_rows_than_int32_are_refused():
    tables = torch.empty(2, 2**30, 1, device="meta")
    with pytest.raises(ValueError, match="fewer than 2\\^31 rows"):
        hash_ngram(torch.zeros(4, dtype=torch.int64), tables, bounds([4]), [3, 4], [7])


@pytest.mark.parametrize("wrong", [[0, 2, 2, 4], [0, 3], [1, 4]], ids=str)
def test_wrong_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match="cu_seqlens"):
        hash_ngram(torch.zeros(4, dtype=torch.int64), randn(1, 5, 2), torch.tensor(wrong).int(), [3], [7])


def test_registration():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    ids = torch.randint(0, 260, (9,))
    rows = hash_rows(ids, bounds([4, 5]), [2, 3], PRIMES[:2], 11)
    for op, inputs in (
        (torch.ops.hnet.hash_ngram_rows, (ids, bounds([4, 5]), [2, 3], PRIMES[:2], 11)),
        (torch.ops.hnet.hash_ngram, (randn(4, 11, 3).requires_grad_(), rows)),
    ):
        results = torch.library.opcheck(op.default, inputs, test_utils=checks)
        assert set(results.values()) == {"SUCCESS"}


def test_is_captured_as_one_graph_with_its_backward():
    def squares(ids: Tensor, tables: Tensor, cu_seqlens: Tensor) -> Tensor:
        return hash_ngram(ids, tables, cu_seqlens, [2, 3], PRIMES[:2]).square()

    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    tables = randn(4, 11, 3).requires_grad_()
    for lengths in ([5, 1, 2], [3, 3, 1, 4], [2, 9]):
        ids, cu_seqlens = torch.randint(0, 260, (sum(lengths),)), bounds(lengths)
        out, expected = compiled(ids, tables, cu_seqlens), squares(ids, tables, cu_seqlens)
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(torch.autograd.grad(out.sum(), tables), torch.autograd.grad(expected.sum(), tables))


def test_case_equals_its_eager_composition():
    (case,) = CASES
    sizes = Sizes(num_units=60, num_chunks=11, width=6, num_documents=3, dtype=torch.float32)
    inputs = case.inputs(sizes)
    out, eager = case.run(**inputs), case.others["eager"](**inputs)
    torch.testing.assert_close(out, eager)
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        torch.autograd.grad(out, inputs["tables"], grad), torch.autograd.grad(eager, inputs["tables"], grad)
    )
    forward, backward = case.floor(sizes)
    assert forward > 7 * 60 * 24 and backward > (60 + 6 * 62) * 24
