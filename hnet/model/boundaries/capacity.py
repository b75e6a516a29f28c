"""A bound on the number of chunks of a pack: memory that no input can exceed."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from hnet.model.boundaries.boundaries import Boundaries, confidence


def max_chunks(num_units: int, num_documents: int, fraction: float) -> int:
    """Chunks that `fraction` allows of T units: never fewer than documents."""
    return max(num_documents, math.floor(fraction * num_units))


def within_capacity(boundaries: Boundaries, cu_seqlens: Tensor, fraction: float) -> Boundaries:
    """Drop the least confident boundaries beyond `max_chunks`, never a document's first; the host does not wait.

    What is kept depends on the whole pack, so while boundaries are dropped a document's chunks depend on its
    neighbours and on later units.
    """
    prob, mask = boundaries.prob, boundaries.mask
    limit = max_chunks(prob.numel(), cu_seqlens.numel() - 1, fraction)
    score = prob.detach().masked_fill(~mask, -1.0).index_fill(0, cu_seqlens[:-1].long(), 2.0)
    best = torch.sort(score, descending=True, stable=True).indices[:limit]
    kept = torch.zeros_like(mask).index_fill_(0, best, True) & mask
    return replace(
        boundaries,
        mask=kept,
        confidence=confidence(prob, kept),
        num_dropped=boundaries.num_wanted - kept.sum(),
    )
