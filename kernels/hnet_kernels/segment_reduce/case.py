"""Mean, maximum and last unit of chunks, at any size."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.packed import segment_ids
from hnet_kernels.segment_reduce.op import segment_reduce


def inputs(sizes: Sizes) -> dict[str, Any]:
    x = sizes.randn(sizes.num_units, sizes.width).requires_grad_()
    return {"x": x, "chunk_offsets": sizes.chunk_offsets()}


def eager_mean(x: Tensor, chunk_offsets: Tensor) -> Tensor:
    lengths = chunk_offsets.diff()
    total = x.new_zeros(lengths.shape[0], x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    total = total.index_add(0, segment_ids(chunk_offsets, x.shape[0]), x.to(total.dtype))
    return (total / lengths.unsqueeze(1)).to(x.dtype)


def eager_max(x: Tensor, chunk_offsets: Tensor) -> Tensor:
    """As BLT pools patches; unlike the op it shares the gradient of a maximum among equal units."""
    chunk = segment_ids(chunk_offsets, x.shape[0]).unsqueeze(1).expand(-1, x.shape[1])
    out = x.new_zeros(chunk_offsets.shape[0] - 1, x.shape[1])
    return out.scatter_reduce(0, chunk, x, "amax", include_self=False)


def eager_last(x: Tensor, chunk_offsets: Tensor) -> Tensor:
    return x.index_select(0, chunk_offsets[1:] - 1)


def mean_floor(sizes: Sizes) -> tuple[int, int]:
    """Forward reads T rows and writes M; backward the reverse. Both read the offsets."""
    both = (sizes.num_units + sizes.num_chunks) * sizes.row_bytes + 4 * (sizes.num_chunks + 1)
    return both, both


def max_floor(sizes: Sizes) -> tuple[int, int]:
    """As the mean, and the argmax of M rows in int32 is written, then read."""
    argmax = 4 * sizes.num_chunks * sizes.width
    forward, backward = mean_floor(sizes)
    return forward + argmax, backward + argmax


def last_floor(sizes: Sizes) -> tuple[int, int]:
    """Forward reads and writes M rows; backward reads M and writes T. Both read the offsets."""
    rows, offsets = sizes.num_chunks * sizes.row_bytes, 4 * (sizes.num_chunks + 1)
    return 2 * rows + offsets, rows + sizes.num_units * sizes.row_bytes + offsets


CASES = (
    Case("segment_mean", inputs, partial(segment_reduce, reduction="mean"), mean_floor, {"eager": eager_mean}),
    Case("segment_last", inputs, partial(segment_reduce, reduction="last"), last_floor, {"eager": eager_last}),
    Case("segment_max", inputs, partial(segment_reduce, reduction="max"), max_floor, {"eager": eager_max}),
)
