"""Heads that are one linear layer: over the units of the vocabulary, over labels."""

import torch
from torch import nn

from hnet.model.config.objectives import ClassificationConfig, HeadSizes, NextUnitConfig


def unit_head(sizes: HeadSizes, config: NextUnitConfig, *, device: torch.device | str | None = None) -> nn.Linear:
    """Units (T, D) -> logits (T, V)."""
    return nn.Linear(sizes.width, sizes.vocab_size, bias=False, device=device)


def label_head(
    sizes: HeadSizes, config: ClassificationConfig, *, device: torch.device | str | None = None
) -> nn.Linear:
    """Documents (B, D) -> logits (B, labels)."""
    return nn.Linear(sizes.width, len(config.labels), device=device)
