"""`Boundaries`: what every boundary source returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


# Without slots: ZeRO-3 looks into what a module returns through its __dict__.
@dataclass(frozen=True)
class Boundaries:
    """Where chunks begin, over T packed units."""

    prob: Tensor
    """(T,) float32 in [0, 1]."""
    mask: Tensor
    """(T,) bool: the unit is the first of a chunk; true at the first unit of every document."""
    confidence: Tensor
    """(T,): probability of the decision taken, p at a boundary and 1 - p elsewhere."""
    prob_sum: Tensor
    """() sum of prob."""
    num_wanted: Tensor
    """() int64: boundaries before a bound on the number of chunks."""
    num_dropped: Tensor
    """() int64: boundaries that the bound took away."""
    at_least_half: bool = False
    """Every boundary but a document's first has prob >= 1/2: kernels may rely on it."""
    num_chunks: int | None = None
    """Boundaries in `mask`, where the host knows it without asking the device."""
    closes: Tensor | None = None
    """(T,) bool: after this unit one more chunk of its document is known to be whole. None: at every boundary but a
    document's first unit, whose chunk before it has just ended."""
    behind: Tensor | None = None
    """(T,) int64, in steps alone: where a unit closes a chunk, units read of the next one, itself included if it is one
    of them. None: 1 everywhere."""

    @property
    def straight_through(self) -> Tensor:
        """(T, 1): exactly 1 forwards, and the way of a loss's gradient to boundaries that are learned (H-Net paper,
        equation 7)."""
        return (self.confidence - self.confidence.detach() + 1)[:, None]

    def none(self) -> "Boundaries":
        """Of no unit."""
        zero = torch.zeros_like(self.num_wanted)
        parts = (self.prob[:0], self.mask[:0], self.confidence[:0])
        return Boundaries(*parts, torch.zeros_like(self.prob_sum), zero, zero, self.at_least_half, 0)

    @classmethod
    def given(cls, mask: Tensor, closes: Tensor | None = None, behind: Tensor | None = None) -> "Boundaries":
        """Of a source that knows."""
        prob = mask.float()
        count, zero = mask.sum(), torch.zeros((), dtype=torch.int64, device=mask.device)
        return cls(prob, mask, torch.ones_like(prob), prob.sum(), count, zero, True, None, closes, behind)

    @classmethod
    def decided(cls, prob: Tensor, mask: Tensor) -> "Boundaries":
        """From probabilities and a mask that need not follow from them."""
        count = mask.sum()
        return cls(prob, mask, confidence(prob, mask), prob.sum(), count, torch.zeros_like(count))


def confidence(prob: Tensor, mask: Tensor) -> Tensor:
    """Probability (T,) of the decision that was taken."""
    return prob.where(mask, 1 - prob)
