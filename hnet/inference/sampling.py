"""Choosing the next unit from logits."""

import torch
from torch import Tensor

from hnet.errors import ConfigError


class Sampler:
    """Greedy at temperature 0; else softmax at a temperature, cut to its most likely part.

    Draws on the CPU in float32, so that a seed gives the same text on every device with the same logits.
    """

    def __init__(self, *, temperature: float, top_p: float, seed: int) -> None:
        """Raises ConfigError for a temperature below 0 or a `top_p` outside 0..1."""
        if not 0 <= temperature < float("inf"):
            raise ConfigError(f"temperature {temperature} is not allowed: give 0 (greedy) or a positive number")
        if not 0 <= top_p <= 1:
            raise ConfigError(f"top_p {top_p} is not allowed: give a number from 0 to 1")
        self.temperature = temperature
        self.top_p = top_p
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        """One id from logits (V,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits.float().cpu() / self.temperature, 0)
        if self.top_p < 1:
            probabilities = _nucleus(probabilities, self.top_p)
        return int(torch.multinomial(probabilities, 1, generator=self.generator))


def _nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Keeps the fewest most likely units whose sum reaches `top_p`, at least one (Holtzman et al. 2020)."""
    ordered, order = probabilities.sort(descending=True, stable=True)
    left_out = ordered.cumsum(0) - ordered >= top_p
    left_out[0] = False
    return probabilities.index_fill(0, order[left_out], 0.0)
