"""The n-gram embeddings of BLT, at any size."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding

from hnet_kernels.case import Case, Sizes
from hnet_kernels.hash_ngram.op import hash_ngram

SIZES = (3, 4, 5, 6, 7, 8)
PRIMES = (1000000007,)
NUM_TABLES = len(SIZES) * len(PRIMES)


def num_rows(sizes: Sizes) -> int:
    """Rows of a table: BLT's 500,002, or fewer for a pack so short that it could not touch them."""
    return min(500_002, 2 + sizes.num_units)


def inputs(sizes: Sizes) -> dict[str, Any]:
    shape = (sizes.num_units,)
    return {
        "ids": torch.randint(4, 260, shape, generator=sizes.generator(), device=sizes.device),
        "tables": sizes.randn(NUM_TABLES, num_rows(sizes), sizes.width).requires_grad_(),
        "cu_seqlens": sizes.cu_seqlens(),
    }


def run(ids: Tensor, tables: Tensor, cu_seqlens: Tensor) -> Tensor:
    return hash_ngram(ids, tables, cu_seqlens, SIZES, PRIMES)


def eager(ids: Tensor, tables: Tensor, cu_seqlens: Tensor) -> Tensor:
    """As BLT: windows times powers, then one embedding after the other; windows end at documents."""
    start = torch.repeat_interleave(cu_seqlens[:-1].long(), cu_seqlens.diff(), output_size=ids.shape[0])
    unit = torch.arange(ids.shape[0], device=ids.device)
    out, table = tables.new_zeros(ids.shape[0], tables.shape[2]), 0
    for prime in PRIMES:
        for size in SIZES:
            window = unit.unsqueeze(1) + torch.arange(1 - size, 1, device=ids.device)
            units = ids[window.clamp(min=0)].where(window >= start.unsqueeze(1), 0)
            powers = torch.full((size,), prime, device=ids.device)
            powers[0] = 1
            rows = (units * powers.cumprod(0)).sum(1) % tables.shape[1]
            out = out + embedding(rows, tables[table])
            table += 1
    return out


def floor(sizes: Sizes) -> tuple[int, int]:
    """Forward: the ids, N table rows read and one row written a unit, and the row numbers in int32 kept.

    Backward: the row numbers, dout read once, the dense gradient written once and once more where rows were touched
    (it is filled with zeros first). Touched rows are those expected of T random draws in V rows.
    """
    units, rows = sizes.num_units, num_rows(sizes)
    numbers = 4 * NUM_TABLES * units
    touched = round(rows * (1 - (1 - 1 / rows) ** units)) * NUM_TABLES
    forward = 8 * units + numbers + (NUM_TABLES + 1) * units * sizes.row_bytes
    backward = numbers + (units + NUM_TABLES * rows + touched) * sizes.row_bytes
    return forward, backward


CASES = (Case("hash_ngram", inputs, run, floor, {"eager": eager}),)
