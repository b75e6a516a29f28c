"""Byte2Word's head: the sub-words of a word, all at once (arXiv 2211.12677; docs/architectures/byte2word.md)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet.model.blocks.norm import RMSNorm
from hnet.model.config.objectives import HeadSizes, MaskedWordsConfig


class MaskedWordsHead(nn.Module):
    """logits_j = vocabulary(norm(gelu(transform(word + slot_j)))) for sub-words j < k of a word."""

    def __init__(
        self, sizes: HeadSizes, config: MaskedWordsConfig, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        hidden = config.head_width or sizes.width
        self.slots = nn.Embedding(config.slots, sizes.width, device=device)
        self.transform = nn.Linear(sizes.width, hidden, device=device)
        self.norm = RMSNorm(hidden, sizes.norm_eps, device=device)
        self.vocabulary = nn.Linear(hidden, config.vocab_size, device=device)

    def forward(self, hidden: Tensor) -> Tensor:
        """Words (N, D) -> logits (N, k, V)."""
        places = torch.arange(self.slots.num_embeddings, device=hidden.device)
        slotted = hidden[:, None] + self.slots(places).to(hidden.dtype)
        transformed = self.norm(F.gelu(self.transform(slotted)))
        logits: Tensor = self.vocabulary(transformed.to(hidden.dtype))
        return logits
