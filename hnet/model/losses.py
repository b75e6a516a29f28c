"""Training losses of a hierarchical language model, as sums and means that can be reduced over ranks."""

import torch
from torch import Tensor

from hnet.model.config.part import BoundaryConfig
from hnet_kernels.cross_entropy import op

IGNORE = -100
"""Label of a position that predicts nothing."""


def cross_entropy_sum(logits: Tensor, labels: Tensor, ignore: int = IGNORE) -> Tensor:
    """Sum of -log p(label) in nats over logits (T, V) and labels (T,); `ignore` labels count nothing."""
    return op.cross_entropy_sum(logits, labels, ignore)


def ratio_loss(mean_prob: Tensor, mean_boundary: Tensor, ratio: float) -> Tensor:
    """N / (N - 1) * ((N - 1) F G + (1 - F)(1 - G)), H-Net paper eq. 10.

    G = `mean_prob` carries the gradient, F = `mean_boundary` is the share of boundaries, N = `ratio` > 1.
    Equal to 1 where F = G = 1 / N.
    """
    share = mean_boundary.detach()
    return ratio / (ratio - 1) * ((ratio - 1) * share * mean_prob + (1 - share) * (1 - mean_prob))


def boundary_loss(boundary: BoundaryConfig, mean_prob: Tensor, mean_boundary: Tensor) -> Tensor:
    """`ratio_loss` of boundaries that are learned; of others 0, whatever the probabilities."""
    if boundary.is_learned:
        return ratio_loss(mean_prob, mean_boundary, boundary.units_per_chunk)
    return torch.zeros_like(mean_prob)
