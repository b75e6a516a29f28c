"""`Boundaries`: what every boundary source returns."""

from dataclasses import dataclass

from torch import Tensor


# Without slots: ZeRO-3 looks into what a module returns through its __dict__.
@dataclass(frozen=True)
class Boundaries:
    """Where chunks begin, over T packed units."""

    prob: Tensor
    """(T,) float32 in [0, 1]."""
    mask: Tensor
    """(T,) bool: the unit is the first of a chunk; true at the first unit of every document."""

    @property
    def confidence(self) -> Tensor:
        """(T,): probability of the decision taken, p at a boundary and 1 - p elsewhere."""
        return self.prob.where(self.mask, 1 - self.prob)
