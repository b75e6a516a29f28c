"""Hashes of n-grams, the sum of their embeddings, and the dense gradient of the tables."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from hnet_kernels.tiles import row_tile

HASH_BLOCK = 256
# Partial sums whose loads are under way at once.
UNROLL = 8


@triton.jit(do_not_specialize=["num_units", "num_documents", "search_steps"])
def rows_kernel(
    ids_ptr,
    cu_seqlens_ptr,
    rows_ptr,
    num_units,
    num_documents,
    search_steps,
    num_rows,
    SIZES: tl.constexpr,
    PRIMES: tl.constexpr,
    LONGEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    NUM_SIZES: tl.constexpr = len(SIZES)
    NUM_TABLES: tl.constexpr = len(SIZES) * len(PRIMES)
    t = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = t < num_units
    # Bisection for the document: cu_seqlens[low] <= t < cu_seqlens[high] all along.
    low = tl.zeros((BLOCK,), tl.int32)
    high = tl.zeros((BLOCK,), tl.int32) + num_documents
    for _ in range(search_steps):
        middle = (low + high) // 2
        begun = tl.load(cu_seqlens_ptr + middle) <= t
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, middle)
    start = tl.load(cu_seqlens_ptr + low).to(tl.int64)
    newest = tl.load(ids_ptr + t, mask=inside, other=0)
    for f in tl.static_range(len(PRIMES)):
        value = newest
        for size in tl.static_range(1, LONGEST + 1):
            if size > 1:
                oldest = t - (size - 1)
                value = value * PRIMES[f] + tl.load(ids_ptr + oldest, mask=inside & (oldest >= start), other=0)
            for s in tl.static_range(NUM_SIZES):
                if SIZES[s] == size:
                    # The remainder of a negative hash is negative here; PyTorch's has the sign of the divisor.
                    row = value % num_rows
                    row = tl.where(row < 0, row + num_rows, row) + tl.cast(f * NUM_SIZES + s, tl.int64) * num_rows
                    tl.store(rows_ptr + t * NUM_TABLES + (f * NUM_SIZES + s), row.to(tl.int32), mask=inside)


@triton.jit(do_not_specialize=["num_units"])
def gather_kernel(
    tables_ptr,
    rows_ptr,
    out_ptr,
    num_units,
    width,
    NUM_TABLES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = t < num_units
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = inside[:, None] & (column < width)[None, :]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for table in tl.static_range(NUM_TABLES):
        row = tl.load(rows_ptr + t * NUM_TABLES + table, mask=inside, other=0).to(tl.int64)
        total += tl.load(tables_ptr + row[:, None] * width + column[None, :], mask=lane, other=0.0).to(tl.float32)
    tl.store(out_ptr + t[:, None] * width + column[None, :], total, mask=lane)


@triton.jit
def load_pair(grad_ptr, keys_ptr, units_ptr, p, num_pairs, width, column, lane):
    """The gradient row of pair p's unit, and the key of the pair after it."""
    inside = p < num_pairs
    t = tl.load(units_ptr + p, mask=inside, other=0)
    after = tl.load(keys_ptr + p + 1, mask=p + 1 < num_pairs, other=-1)
    return tl.load(grad_ptr + t * width + column, mask=lane & inside, other=0.0).to(tl.float32), after


@triton.jit
def add_pair(total, key, own, x, after, inside, table_ptr, head_ptr, width, column, lane):
    """Add one unit to the sum of its row; if it is the row's last, write the sum and begin the next."""
    total += x
    closes = inside & (after != key)
    tl.store(table_ptr + key.to(tl.int64) * width + column, total, mask=lane & (closes & own))
    # Rare, and behind a branch: float32 rows are laid out over the threads in another way than half precision.
    if closes & (own == 0):
        tl.store(head_ptr + column, total, mask=lane)
    return tl.where(closes, 0.0, total), after, own | closes


@triton.jit(do_not_specialize=["num_pairs"])
def accumulate_kernel(
    grad_ptr,
    keys_ptr,
    units_ptr,
    table_ptr,
    head_ptr,
    tail_ptr,
    num_pairs,
    width,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums over equal keys in TILE consecutive (key, unit) pairs.

    A sum that begins and ends in the tile goes to the table. One that began in an earlier tile goes to the tile's
    head, one that begins here and goes on to its tail.
    """
    tile = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = column < width
    head_ptr += tile * width
    first = tile * TILE
    key = tl.load(keys_ptr + first)
    own = tl.load(keys_ptr + first - 1, mask=first > 0, other=-1) != key
    total = tl.zeros((COLUMNS,), tl.float32)
    for i in range(0, TILE, 4):
        p = first + i
        # All loads come before the stores: nothing may be moved across those.
        x0, k0 = load_pair(grad_ptr, keys_ptr, units_ptr, p, num_pairs, width, column, lane)
        x1, k1 = load_pair(grad_ptr, keys_ptr, units_ptr, p + 1, num_pairs, width, column, lane)
        x2, k2 = load_pair(grad_ptr, keys_ptr, units_ptr, p + 2, num_pairs, width, column, lane)
        x3, k3 = load_pair(grad_ptr, keys_ptr, units_ptr, p + 3, num_pairs, width, column, lane)
        left = num_pairs - p
        total, key, own = add_pair(total, key, own, x0, k0, left > 0, table_ptr, head_ptr, width, column, lane)
        total, key, own = add_pair(total, key, own, x1, k1, left > 1, table_ptr, head_ptr, width, column, lane)
        total, key, own = add_pair(total, key, own, x2, k2, left > 2, table_ptr, head_ptr, width, column, lane)
        total, key, own = add_pair(total, key, own, x3, k3, left > 3, table_ptr, head_ptr, width, column, lane)
    more = first + TILE < num_pairs
    goes_on = more & (tl.load(keys_ptr + first + TILE - 1, mask=more, other=-1) == key)
    if goes_on & own:
        tl.store(tail_ptr + tile * width + column, total, mask=lane)
    if goes_on & (own == 0):
        tl.store(head_ptr + column, total, mask=lane)


@triton.jit(do_not_specialize=["num_pairs"])
def combine_kernel(
    keys_ptr,
    last_tile_ptr,
    table_ptr,
    head_ptr,
    tail_ptr,
    num_pairs,
    width,
    TILE: tl.constexpr,
    UNROLL: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write a sum that begins in this tile and goes on: its tail and the heads up to the key's last tile."""
    tile = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tile * TILE
    more = first + TILE < num_pairs
    key = tl.load(keys_ptr + first + TILE - 1, mask=more, other=-1)
    begins = tl.load(keys_ptr + first - 1, mask=first > 0, other=-1) != key
    goes_on = tl.load(keys_ptr + first + TILE, mask=more, other=-1) == key
    lane = (column < width) & (more & begins & goes_on)
    stop = tl.where(more & begins & goes_on, tl.load(last_tile_ptr + tile) + 1, tile + 1)
    total = tl.load(tail_ptr + tile * width + column, mask=lane, other=0.0)
    for start in range(tile + 1, stop, UNROLL):
        for r in tl.static_range(UNROLL):
            other = tl.cast(start, tl.int64) + r
            total += tl.load(head_ptr + other * width + column, mask=lane & (other < stop), other=0.0)
    tl.store(table_ptr + key.to(tl.int64) * width + column, total, mask=lane)


def gather_tile(width: int) -> tuple[int, int, int]:
    """(rows, columns, warps): 8 elements a thread, so that the rows of many tables are under way at once."""
    rows, columns = row_tile(width, 1024)
    rows = triton.next_power_of_2(rows)
    return rows, columns, max(1, rows * columns // 256)


def column_block(width: int) -> tuple[int, int]:
    """(columns, warps) of a program that walks single rows: 8 elements a thread."""
    columns = row_tile(width)[1]
    return columns, max(1, columns // 256)


def tile_of(num_pairs: int) -> int:
    """Pairs of one program; few while there are few programs, many to write fewer partial sums."""
    return 256 if num_pairs >= 2**19 else 32


def hash_ngram_rows(
    ids: Tensor, cu_seqlens: Tensor, sizes: Sequence[int], primes: Sequence[int], num_rows: int
) -> Tensor:
    num_units, num_documents = ids.shape[0], cu_seqlens.shape[0] - 1
    rows = torch.empty(num_units, len(sizes) * len(primes), dtype=torch.int32, device=ids.device)
    rows_kernel[(triton.cdiv(num_units, HASH_BLOCK),)](
        ids.contiguous(),
        cu_seqlens.contiguous(),
        rows,
        num_units,
        num_documents,
        num_documents.bit_length(),
        num_rows,
        SIZES=tuple(sizes),
        PRIMES=tuple(primes),
        LONGEST=max(sizes),
        BLOCK=HASH_BLOCK,
    )
    return rows


def hash_ngram_forward(tables: Tensor, rows: Tensor) -> Tensor:
    num_units, width = rows.shape[0], tables.shape[2]
    out = tables.new_empty(num_units, width)
    block, columns, num_warps = gather_tile(width)
    gather_kernel[(triton.cdiv(num_units, block), triton.cdiv(width, columns))](
        tables.contiguous(),
        rows,
        out,
        num_units,
        width,
        NUM_TABLES=rows.shape[1],
        ROWS=block,
        COLUMNS=columns,
        num_warps=num_warps,
    )
    return out


def hash_ngram_backward(grad: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    num_tables, width = rows.shape[1], grad.shape[1]
    keys, order = torch.sort(rows.flatten(), stable=True)
    units = order.div_(num_tables, rounding_mode="floor")
    num_pairs = keys.shape[0]
    tile = tile_of(num_pairs)
    num_tiles = triton.cdiv(num_pairs, tile)
    last_pair = (torch.arange(1, num_tiles + 1, device=keys.device) * tile).clamp_(max=num_pairs) - 1
    last_tile = (torch.searchsorted(keys, keys[last_pair], right=True) - 1) // tile
    dtables = grad.new_zeros(num_tables, num_rows, width)
    head = torch.empty(num_tiles, width, dtype=torch.float32, device=grad.device)
    tail = torch.empty(num_tiles, width, dtype=torch.float32, device=grad.device)
    columns, num_warps = column_block(width)
    grid = (num_tiles, triton.cdiv(width, columns))
    accumulate_kernel[grid](
        grad.contiguous(),
        keys,
        units,
        dtables,
        head,
        tail,
        num_pairs,
        width,
        TILE=tile,
        COLUMNS=columns,
        num_warps=num_warps,
    )
    combine_kernel[grid](
        keys,
        last_tile,
        dtables,
        head,
        tail,
        num_pairs,
        width,
        TILE=tile,
        UNROLL=UNROLL,
        COLUMNS=columns,
        num_warps=num_warps,
    )
    return dtables
