"""A bound on the number of chunks of a pack: memory that no input can exceed."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from hnet.model.boundaries.boundaries import Boundaries, confidence
from hnet.model.sharding import Shard, first_units


def max_chunks(num_units: int, num_documents: int, fraction: float) -> int:
    """Chunks that `fraction` allows of T units: never fewer than documents."""
    return max(num_documents, math.floor(fraction * num_units))


def within_capacity(
    boundaries: Boundaries, cu_seqlens: Tensor, fraction: float, *, fill: bool, shard: Shard | None = None
) -> Boundaries:
    """Drop the least confident boundaries beyond `max_chunks`, never a document's first; the host does not wait.

    With `fill` there are exactly that many: where fewer are wanted, the likeliest other units open a chunk too.
    What is kept depends on the whole pack, so while boundaries are dropped or added a document's chunks depend on its
    neighbours and on later units.
    """
    prob, mask = boundaries.prob, boundaries.mask
    # A document's first unit before all others, also where p is NaN; then boundaries, then units that are none.
    score = (prob.detach().nan_to_num(0.0) + mask.to(prob.dtype)).index_fill(0, first_units(cu_seqlens, shard), 3.0)
    if shard is None:
        limit = max_chunks(prob.numel(), cu_seqlens.numel() - 1, fraction)
        kept = _largest(score, limit)
    else:
        num_units, num_documents = shard.total - shard.num_padding, shard.num_documents - shard.num_padding
        limit = max_chunks(num_units, num_documents, fraction) + shard.num_padding
        kept = _largest(shard.gather(score), limit)[shard.start : shard.stop]
    if not fill:
        kept &= mask
    return replace(
        boundaries,
        mask=kept,
        confidence=confidence(prob, kept),
        num_dropped=(mask & ~kept).sum(),
        at_least_half=boundaries.at_least_half and not fill,
        num_chunks=limit if fill else None,
    )


def _largest(score: Tensor, limit: int) -> Tensor:
    """(T,) bool: the `limit` largest; of equal ones the earlier."""
    best = torch.sort(score, descending=True, stable=True).indices[:limit]
    return torch.zeros_like(score, dtype=torch.bool).index_fill_(0, best, True)
