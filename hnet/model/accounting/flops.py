"""Forward and training FLOPs of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hnet.model.accounting.layers import check_units, kv_width, mamba_sizes, stacks, units_per_count
from hnet.model.config import ModelConfig, StageConfig, parse_layers
from hnet.model.config.stage import part_sizes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = float | NDArray[np.float64]

TRAINING_FLOPS = 3
"""Training over forward FLOPs: a backward pass multiplies twice for each product of the forward pass."""
_LEAST = 1e-9
"""Stands for no units where counts are divided by."""


def flops_per_byte(
    config: ModelConfig, units_per_byte: Sequence[float], context: float, *, causal: bool = True
) -> float:
    """Forward FLOPs per byte of text (or token), with those of the model that the boundaries ask, if they ask one.

    Args:
        units_per_byte: units of the outermost stage, and chunks of every stage, per byte, as measured. The first is 1
            unless separators stand between chunks; with 1 there, the result is per unit of the outermost stage.
        context: length of the documents in stage-0 units, averaged over units (sum of L^2 over sum of L).
        causal: False counts every pair of a document, as the H-Net paper's appendix B does (no windows there).
    Raises:
        ValueError: not one share per stage, or a negative number.
    """
    of_model = _model_flops(config, units_per_byte, context, causal=causal)
    return of_model + units_per_byte[0] * rule_flops(config)


def training_flops_per_byte(config: ModelConfig, units_per_byte: Sequence[float], context: float) -> float:
    """FLOPs of a training step per byte, as `flops_per_byte`: `TRAINING_FLOPS` times the model's own, and one forward
    pass of the model that the boundaries ask, which is not trained."""
    of_model = _model_flops(config, units_per_byte, context, causal=True)
    return TRAINING_FLOPS * of_model + units_per_byte[0] * rule_flops(config)


def rule_flops(config: ModelConfig) -> float:
    """Forward FLOPs per stage-0 unit of the model that the outermost stage's boundaries ask; 0 where they ask none."""
    outermost = config.stages[0]
    return 0.0 if outermost.is_innermost else outermost.boundary.rule_flops


def _model_flops(config: ModelConfig, units: Sequence[float], context: float, *, causal: bool) -> float:
    import numpy as np

    return float(stage_flops(config, np.asarray(units), np.asarray(context), causal=causal).sum())


def stage_flops(
    config: ModelConfig, units: NDArray[np.number], context: NDArray[np.number], *, causal: bool = True
) -> NDArray[np.float64]:
    """(..., S) forward FLOPs of every stage for (..., S) counts of S stages (the module says what is counted); the head
    is in the first. `context` (...) as in `flops_per_byte`; the documents of inner stages are shorter as their units
    are fewer.

    An (m, k) by (k, n) product counts 2mnk. Counted: projections, attention scores and values over the keys that a
    query sees (of its chunk alone, all of mean length, where the stack begins anew in each), the Mamba-2 scan as
    6 di N per unit (the decay, the input and the output of its di x N state; H-Net paper, appendix B), its convolution
    2 K (di + 2N), what the parts declare, residual, head. Norms, activations, and looking up rows of tables are left
    out. The count does not depend on how a kernel computes.

    Raises:
        ValueError: not one count per stage, or a negative number.
    """
    import numpy as np

    counts: NDArray[np.float64] = np.asarray(units, dtype=np.float64)
    if counts.shape[-1] != len(config.stages) or counts.min(initial=0.0) < 0:
        check_units(config, counts.reshape(-1, counts.shape[-1]).min(axis=0).tolist())
    flops, lengths = np.zeros_like(counts), np.asarray(context, dtype=np.float64)
    for index, (stage, per_count) in enumerate(zip(config.stages, units_per_count(config), strict=True)):
        entered: NDArray[np.float64] = counts[..., index] * per_count
        length: Numbers = lengths * entered / np.maximum(counts[..., 0], _LEAST)
        if stage.is_innermost:
            flops[..., index] = entered * _stack_flops(stage, length, length, causal)
            continue
        chunks = counts[..., index + 1]
        chunk_length = np.minimum(length, entered / np.maximum(chunks, _LEAST))
        flops[..., index] = entered * _stack_flops(stage, length, chunk_length, causal)
        if stage.residual == "linear":
            flops[..., index] += entered * 2.0 * stage.d_model**2
        sizes = part_sizes(stage, config.stages[index + 1], config.norm_eps)
        for part in (stage.boundary, stage.pool, stage.unpool):
            cost = part.flops(sizes)
            flops[..., index] += entered * cost.unit + chunks * cost.chunk
    documents = counts[..., 0] / np.maximum(lengths, 1.0)
    rows = config.objective.num_rows(counts[..., 0], counts[..., min(1, counts.shape[-1] - 1)], documents)
    flops[..., 0] += rows * config.objective.head_flops(config.head_sizes)
    return flops


def document_flops(stage: StageConfig, lengths: NDArray[np.number]) -> NDArray[np.float64]:
    """(B,) forward FLOPs of an innermost stage's layers for documents of (B,) units each, as in `stage_flops`."""
    import numpy as np

    units = np.asarray(lengths, dtype=np.float64)
    return units * _stack_flops(stage, units, units, True)


def mean_keys(length: Numbers, window: int) -> Numbers:
    """Keys that a causal query sees on average in a document of `length` units.

    `window` w limits them to w + 1; -1 is no limit.
    """
    import numpy as np

    length = np.maximum(length, 1.0)
    limit: Numbers = length if window < 0 else np.minimum(length, window + 1.0)
    return limit - limit * (limit - 1) / (2 * length)


def _stack_flops(stage: StageConfig, length: Numbers, chunk_length: Numbers, causal: bool) -> Numbers:
    """FLOPs of all layers of a stage for one unit, in documents and chunks of these lengths."""
    total: Numbers = 0.0
    for _, layers, mask in stacks(stage):
        scope = chunk_length if mask.startswith("chunk") else length
        keys = scope
        if causal:
            keys = mean_keys(scope, stage.attention.window)
            if "bidirectional" in mask:
                # As many later ones as earlier ones, and the unit itself once.
                keys = 2 * keys - 1
        total = total + sum(_layer_flops(stage, kind, keys) for kind in parse_layers(layers))
    return total


def _layer_flops(stage: StageConfig, kind: str, keys: Numbers) -> Numbers:
    """FLOPs of one layer for one unit."""
    width = stage.d_model
    mlp = 6.0 * width * stage.mlp_width if kind in "MT" else 0.0
    if kind in "tT":
        return 4.0 * width * keys + 4.0 * width * (width + kv_width(stage)) + mlp
    inner, num_heads, convolved = mamba_sizes(stage)
    projections = 2.0 * width * (inner + convolved + num_heads) + 2.0 * inner * width
    return projections + 2.0 * stage.ssm.d_conv * convolved + 6.0 * inner * stage.ssm.d_state + mlp
