"""Memory of training: what the backward pass needs of the forward pass, and what lies around it."""

from collections.abc import Sequence

from hnet.model.accounting.layers import check_units, kv_width, mamba_sizes, stacks, units_per_count
from hnet.model.accounting.parameters import count_parameters
from hnet.model.config import ModelConfig, StageConfig
from hnet.model.config.stage import part_sizes

_WIDE = 4
"""Bytes of a float32."""
_SCAN_BLOCK = 64
"""Units between two states that the scan keeps for its backward pass."""


def training_bytes(
    config: ModelConfig,
    num_units: Sequence[int],
    *,
    dtype_bytes: int = 4,
    activation_checkpointing: bool = False,
) -> int:
    """Peak memory of training on one device without sharding: weights, gradients, AdamW's two moments, activations.

    Weights and optimizer are float32; with `dtype_bytes` 2 the half-precision copy of the weights is counted too.
    Arguments as in `activation_bytes`.
    """
    per_parameter = 16 + (dtype_bytes if dtype_bytes < _WIDE else 0)
    activations = activation_bytes(
        config, num_units, dtype_bytes=dtype_bytes, activation_checkpointing=activation_checkpointing
    )
    return per_parameter * count_parameters(config) + activations


def activation_bytes(
    config: ModelConfig,
    num_units: Sequence[int],
    *,
    dtype_bytes: int = 4,
    activation_checkpointing: bool = False,
) -> int:
    """Peak memory of the activations of one micro-batch: what the backward pass needs of the forward pass, and the
    largest set of temporary tensors that any one part has on top of it. Linear in the number of units.

    Args:
        num_units: units of the outermost stage in the micro-batch, then the chunks that every stage makes.
        dtype_bytes: size of a number in matrix products, 4 or 2; the residual stream and the scan take 4.
        activation_checkpointing: only the input of each block is kept, and one block at a time is recomputed.
    Raises:
        ValueError: not one count per stage, or a negative number.
    """
    parts = activation_breakdown(
        config, num_units, dtype_bytes=dtype_bytes, activation_checkpointing=activation_checkpointing
    )
    return sum(parts.values())


def activation_breakdown(
    config: ModelConfig, num_units: Sequence[int], *, dtype_bytes: int = 4, activation_checkpointing: bool = False
) -> dict[str, int]:
    """Bytes of `activation_bytes` by part: `stages.0`, ... what each stage keeps for its backward pass, `logits`, and
    `temporary`. Arguments and errors as there."""
    check_units(config, num_units)
    parts: dict[str, float] = {}
    rows = config.objective.num_rows(num_units[0], num_units[min(1, len(num_units) - 1)], 1)
    logits = float(_WIDE * rows * config.objective.num_logits(config.head_sizes))
    largest = 2 * logits
    for index, (stage, per_count) in enumerate(zip(config.stages, units_per_count(config), strict=True)):
        units = num_units[index] * per_count
        saved = 0.0
        for kind in stage.layers:
            kept, temporary = _layer_activations(stage, kind, dtype_bytes)
            if activation_checkpointing:
                kept, temporary = _WIDE * stage.d_model, kept + temporary
            saved += units * kept
            largest = max(largest, units * temporary)
        norms = len({name for name, *_ in stacks(stage)} & set(stage.final_norms))
        saved += units * norms * stage.d_model * (_WIDE + dtype_bytes)
        if not stage.is_innermost:
            saved += _chunking_activations(config, index, units, num_units[index + 1], dtype_bytes)
        parts[f"stages.{index}"] = saved
    parts |= {"logits": logits, "temporary": largest}
    return {name: round(size) for name, size in parts.items()}


def _chunking_activations(config: ModelConfig, index: int, units: int, chunks: int, dtype_bytes: int) -> float:
    """Bytes that a stage keeps of what is between its stacks: what its parts declare, and the chunks on their way into
    the stage inside and out of it."""
    stage, inside = config.stages[index], config.stages[index + 1]
    sizes = part_sizes(stage, inside, config.norm_eps)
    saved = float(chunks * sizes.positions * (inside.d_model + sizes.chunk_width) * _WIDE)
    for part in (stage.boundary, stage.pool, stage.unpool):
        cost = part.activations(sizes, dtype_bytes)
        saved += units * cost.unit + chunks * cost.chunk
    return saved


def _layer_activations(stage: StageConfig, kind: str, size: int) -> tuple[float, float]:
    """Bytes per unit of one layer: kept from forward to backward, and temporary while its gradients are made.

    Every sub-layer keeps its float32 input and the normalised input, then
    attention: q, k, v, the rotated q and k, and the output;
    Mamba-2: z, x, B, C, dt before and x, B, C after the convolution, the scan's output and its states, the gated norm;
    SwiGLU: both halves of the hidden layer and their product.
    """
    width, hidden = stage.d_model, stage.mlp_width
    if kind in "tT":
        heads = 3 * (width + kv_width(stage))
        kept = 1.0 * width * (_WIDE + size) + heads * size + stage.attention.num_heads * _WIDE
        temporary = (5.0 if stage.attention.window < 0 else 10.0) * width * size
    else:
        inner, num_heads, convolved = mamba_sizes(stage)
        scan = inner * (1 + stage.ssm.d_state / _SCAN_BLOCK) + 3.0 * num_heads
        if size < _WIDE:
            scan += convolved + inner  # float32 copies for the scan and the gated norm
        kept = width * (_WIDE + size) + size * (inner + 2 * convolved + num_heads + inner) + scan * _WIDE
        temporary = (4.0 * inner + 2 * stage.ssm.d_state) * _WIDE
    if kind in "MT":
        kept += width * (_WIDE + size) + 3 * hidden * size
        temporary = max(temporary, (3.0 * hidden + width) * size)
    return kept, temporary
