"""Sum of hashed n-gram embeddings."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_cu_seqlens


@torch.library.custom_op("hnet::hash_ngram_rows", mutates_args=())
def hash_rows(ids: Tensor, cu_seqlens: Tensor, sizes: Sequence[int], primes: Sequence[int], num_rows: int) -> Tensor:
    check_cu_seqlens(cu_seqlens, ids.shape[0])
    rows: Tensor = implementation("hash_ngram", ids).hash_ngram_rows(ids, cu_seqlens, sizes, primes, num_rows)
    return rows


@hash_rows.register_fake
def _(ids: Tensor, cu_seqlens: Tensor, sizes: Sequence[int], primes: Sequence[int], num_rows: int) -> Tensor:
    return ids.new_empty(ids.shape[0], len(sizes) * len(primes), dtype=torch.int32)


@torch.library.custom_op("hnet::hash_ngram", mutates_args=())
def gather(tables: Tensor, rows: Tensor) -> Tensor:
    out: Tensor = implementation("hash_ngram", tables).hash_ngram_forward(tables, rows)
    return out


@gather.register_fake
def _(tables: Tensor, rows: Tensor) -> Tensor:
    return tables.new_empty(rows.shape[0], tables.shape[2])


@torch.library.custom_op("hnet::hash_ngram_backward", mutates_args=())
def gather_backward(grad: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    dtables: Tensor = implementation("hash_ngram", grad).hash_ngram_backward(grad, rows, num_rows)
    return dtables


@gather_backward.register_fake
def _(grad: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return grad.new_empty(rows.shape[1], num_rows, grad.shape[1])


def save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    tables, rows = inputs
    ctx.num_rows = tables.shape[1]
    ctx.save_for_backward(rows)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return gather_backward(grad, *ctx.saved_tensors, ctx.num_rows), None


gather.register_autograd(differentiate, setup_context=save)


def hash_ngram(ids: Tensor, tables: Tensor, cu_seqlens: Tensor, sizes: Sequence[int], primes: Sequence[int]) -> Tensor:
    """Sum of the embeddings of the n-grams that end at every unit (BLT, arXiv 2412.09871, section 3.2.1).

    With size n and prime p the row is sum_{i<n} ids[t-n+1+i] * p^i mod V: the oldest unit has power 0. Arithmetic
    wraps around at 2^64 and the remainder is never negative. Before a document's first unit stand zeros.

    Args:
        ids: (T,) int64.
        tables: (N,V,D), one for every pair of prime and size; the sizes vary fastest.
        cu_seqlens: (B+1,) int32.
        sizes: lengths of the n-grams, each at least 1; BLT has 3 to 8.
        primes: one for each hash function.

    Returns:
        (T,D) in the dtype of the tables; half precision is summed in float32. The gradient of the tables is dense.

    Raises:
        ValueError: N is not len(primes) * len(sizes), a size below 1, more than 2^31 - 1 rows in all, or
            cu_seqlens does not rise strictly from 0 to T.
    """
    if not sizes or min(sizes) < 1:
        raise ValueError(f"sizes must be one or more lengths of at least 1, got {list(sizes)}")
    if tables.dim() != 3 or tables.shape[0] != len(sizes) * len(primes):
        raise ValueError(
            f"tables must have shape ({len(primes)} primes * {len(sizes)} sizes, V, D), got {tuple(tables.shape)}"
        )
    if tables.shape[0] * tables.shape[1] >= 2**31:
        raise ValueError(f"tables must have fewer than 2^31 rows in all, got {tables.shape[0] * tables.shape[1]}")
    return gather(tables, hash_rows(ids.long(), cu_seqlens, sizes, primes, tables.shape[1]))
