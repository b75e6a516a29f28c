"""A measurement as its median and how far the samples lie apart."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, quartiles and extremes of some samples."""

    median: float
    lower_quartile: float
    upper_quartile: float
    least: float
    most: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises ValueError without a sample."""
        if not values:
            raise ValueError("a spread needs at least one sample")
        if len(values) == 1:
            return cls(values[0], values[0], values[0], values[0], values[0], 1)
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper, min(values), max(values), len(values))

    def as_dict(self) -> dict[str, float]:
        return asdict(self)
