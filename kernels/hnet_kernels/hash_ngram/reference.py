"""Hashes of n-grams and the sum of their embeddings, in plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hnet_kernels.packed import segment_ids, widen


def hash_ngram_rows(
    ids: Tensor, cu_seqlens: Tensor, sizes: Sequence[int], primes: Sequence[int], num_rows: int
) -> Tensor:
    """(T,N) int32: the row of every table, counted through all tables; table n begins at row n * num_rows."""
    num_units = ids.shape[0]
    unit = torch.arange(num_units, device=ids.device)
    position = unit - cu_seqlens.long()[segment_ids(cu_seqlens, num_units)]
    columns = []
    for prime in primes:
        value, by_size = ids, {1: ids}
        for size in range(2, max(sizes) + 1):
            # Horner's rule from the newest byte: the oldest has power 0. Products wrap around at 2^64.
            older = ids.roll(size - 1).where(position >= size - 1, 0)
            value = older + prime * value
            by_size[size] = value
        columns += [by_size[size].remainder(num_rows) for size in sizes]
    first_row = torch.arange(len(columns), device=ids.device) * num_rows
    return (torch.stack(columns, 1) + first_row).int()


def hash_ngram_forward(tables: Tensor, rows: Tensor) -> Tensor:
    """(T,D) in the dtype of the tables (N,V,D): the sum of the rows (T,N)."""
    flat = tables.flatten(0, 1)
    (out,) = widen(tables.new_zeros(rows.shape[0], tables.shape[2]))
    for table in range(rows.shape[1]):
        out.add_(flat.index_select(0, rows[:, table]))
    return out.to(tables.dtype)


def hash_ngram_backward(grad: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    """Gradient (N,V,D) of the tables, dense."""
    num_tables, width = rows.shape[1], grad.shape[1]
    (wide,) = widen(grad)
    dtables = grad.new_empty(num_tables, num_rows, width)
    for table in range(num_tables):
        dtable = wide.new_zeros(num_rows, width)
        dtables[table] = dtable.index_add_(0, rows[:, table] - table * num_rows, wide)
    return dtables
