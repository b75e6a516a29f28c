"""What is reported of a model's predictions, by objective: names, values and how they are shown. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Any

from hnet.model.config.objectives import ObjectiveConfig

BITS_PER_BYTE = "bits_per_byte"
HELD_OUT = "validation_"
"""Before the name of what was measured on held-out text."""
_NATS, _RIGHT = "_cross_entropy", "_accuracy"


def measures(
    objective: ObjectiveConfig, nats: float, correct: float, num_targets: float, target_bytes: float
) -> dict[str, float]:
    """From sums over targets. Next unit: `bits_per_byte`. Others: nats per target and the share of targets whose
    likeliest prediction is right, as `masked_subword_cross_entropy` and `masked_subword_accuracy`, or `label_...`.

    Bits per byte are of models that predict all of a text; of these others they would mean nothing.
    """
    if objective.predicts_next:
        return {BITS_PER_BYTE: nats / target_bytes / math.log(2)}
    name = objective.target
    return {f"{name}{_NATS}": nats / num_targets, f"{name}{_RIGHT}": correct / num_targets}


def main_measure(row: Mapping[str, Any]) -> str:
    """The name of what the model learns by, in a row of `metrics.jsonl`."""
    return next((name for name in row if name.endswith(_NATS) and not name.startswith(HELD_OUT)), BITS_PER_BYTE)


def title(name: str) -> str:
    """`bits per byte`, `nats per masked subword`."""
    return f"nats per {name.removesuffix(_NATS)}".replace("_", " ") if name.endswith(_NATS) else name.replace("_", " ")


def shown(row: Mapping[str, Any], prefix: str = "", digits: int = 4) -> tuple[str, str] | None:
    """The value and what follows it: `2.4130` and nothing, or `3.2100` and `, 71.0% right`; None if there is none."""
    name = main_measure(row)
    if prefix + name not in row:
        return None
    value, right = row[prefix + name], row.get(prefix + name.removesuffix(_NATS) + _RIGHT)
    return "not finite" if value is None else f"{value:.{digits}f}", "" if right is None else f", {right:.1%} right"
