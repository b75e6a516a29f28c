"""What a model costs, counted from its config alone: parameters, FLOPs and memory. Imports no torch, and
numpy only where many windows are counted at once.

Symbols: d width, h SwiGLU width, di = expand * d, N state size, H heads, K convolution taps, V vocabulary,
T_s units of stage s (T_0 bytes, or tokens of a token model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hnet.model.config import ModelConfig, StageConfig, parse_layers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = float | NDArray[np.float64]

TRAINING_FLOPS = 3
"""Training over forward FLOPs: a backward pass multiplies twice for each product of the forward pass."""

_WIDE = 4
"""Bytes of a float32."""
_SCAN_BLOCK = 64
"""Units between two states that the scan keeps for its backward pass."""


def parameter_breakdown(config: ModelConfig) -> dict[str, int]:
    """Parameters by part, in the order of the computation: `embedding`, `stages.0.encoder`, ..., `head`.

    A tied head has 0. The sum is `count_parameters`.
    """
    parts = {"embedding": config.vocab_size * config.stages[0].d_model}
    for index, stage in enumerate(config.stages):
        name = f"stages.{index}"
        width = stage.d_model
        if index and width > config.stages[index - 1].d_model:
            parts[f"{name}.width_pad"] = width - config.stages[index - 1].d_model
        if stage.main is not None:
            parts[f"{name}.main"] = _stack_parameters(stage, stage.main)
            continue
        parts[f"{name}.encoder"] = _stack_parameters(stage, stage.encoder or "")
        parts[f"{name}.router"] = 2 * width * width
        parts[f"{name}.residual"] = width * width + width
        parts[f"{name}.decoder"] = _stack_parameters(stage, stage.decoder or "")
    parts["head"] = 0 if config.tie_embeddings else config.vocab_size * config.stages[0].d_model
    return parts


def count_parameters(config: ModelConfig) -> int:
    """Parameters of the model; a tied head is counted once."""
    return sum(parameter_breakdown(config).values())


def count_lookup_and_linear_weights(config: ModelConfig) -> int:
    """Numbers in the weights of the embedding, the head and all linear layers but the residual projections: those that
    training in bf16 uses as bf16 alone."""
    breakdown = parameter_breakdown(config)
    total = breakdown["embedding"] + breakdown["head"]
    for index, stage in enumerate(config.stages):
        width, inner = stage.d_model, stage.ssm.expand * stage.d_model
        total += breakdown.get(f"stages.{index}.router", 0)
        for kind in stage.layers:
            if kind in "tT":
                total += 4 * width * width
            else:
                _, num_heads, convolved = _mamba_sizes(stage)
                total += width * (inner + convolved + num_heads) + inner * width
            total += 3 * width * stage.mlp_width if kind in "MT" else 0
    return total


def parameter_sizes(config: ModelConfig) -> dict[str, list[int]]:
    """Numbers in each tensor, by part: `embedding`, `stages.0.encoder.0` (a layer), `stages.0.encoder.norm`, ...

    A stage's parts are in the order of the model's parameters.
    """
    breakdown = parameter_breakdown(config)
    sizes = {"embedding": [breakdown["embedding"]]}
    for index, stage in enumerate(config.stages):
        name, width = f"stages.{index}", stage.d_model
        if f"{name}.width_pad" in breakdown:
            sizes[f"{name}.width_pad"] = [breakdown[f"{name}.width_pad"]]
        for stack in ("main",) if stage.is_innermost else ("encoder", "decoder"):
            for number, kind in enumerate(parse_layers(getattr(stage, stack))):
                sizes[f"{name}.{stack}.{number}"] = _layer_tensors(stage, kind)
            sizes[f"{name}.{stack}.norm"] = [width]
            if stack == "encoder":
                sizes |= {f"{name}.router": [width * width] * 2, f"{name}.residual": [width * width, width]}
    if breakdown["head"]:
        sizes["head"] = [breakdown["head"]]
    return sizes


def _stack_parameters(stage: StageConfig, layers: str) -> int:
    return sum(sum(_layer_tensors(stage, kind)) for kind in parse_layers(layers)) + stage.d_model


def _layer_tensors(stage: StageConfig, kind: str) -> list[int]:
    """Numbers in each tensor of a layer, in the order of its parameters: norm, mixer, the MLP's norm, the MLP."""
    width = stage.d_model
    if kind in "tT":
        tensors = [width, 3 * width * width, width * width]
    else:
        inner, num_heads, convolved = _mamba_sizes(stage)
        in_projection, convolution = width * (inner + convolved + num_heads), [convolved * stage.ssm.d_conv, convolved]
        tensors = [width, *[num_heads] * 3, in_projection, *convolution, inner, inner * width]
    if kind in "MT":
        tensors += [width, 2 * width * stage.mlp_width, width * stage.mlp_width]
    return tensors


def _mamba_sizes(stage: StageConfig) -> tuple[int, int, int]:
    """(di, heads, channels of the convolution di + 2N) of a Mamba-2 layer."""
    inner = stage.ssm.expand * stage.d_model
    return inner, inner // stage.ssm.head_dim, inner + 2 * stage.ssm.d_state


def flops_per_byte(
    config: ModelConfig, units_per_byte: Sequence[float], context: float, *, causal: bool = True
) -> float:
    """Forward FLOPs of the model per stage-0 unit (a byte, or a token); training takes `TRAINING_FLOPS` times that.

    Args:
        units_per_byte: T_s / T_0 of every stage, outermost first, as measured; the first is 1.
        context: length of the documents in stage-0 units, averaged over units (sum of L^2 over sum of L).
        causal: False counts every pair of a document, as the paper's appendix B does (no windows there).
    Raises:
        ValueError: not one share per stage, or a negative number.
    """
    import numpy as np

    return float(stage_flops(config, np.asarray(units_per_byte), np.asarray(context), causal=causal).sum())


def stage_flops(
    config: ModelConfig, units: NDArray[np.number], context: NDArray[np.number], *, causal: bool = True
) -> NDArray[np.float64]:
    """(..., S) forward FLOPs of every stage for (..., S) units T_s of S stages, outermost first; the head is in the
    first. `context` (...) as in `flops_per_byte`; the documents of inner stages are shorter as their units are fewer.

    An (m, k) by (k, n) product counts 2mnk. Counted: projections, attention scores and values over the keys
    that a query sees, the Mamba-2 scan as 6 di N per unit (the decay, the input and the output of its di x N
    state; H-Net paper, appendix B), its convolution 2 K (di + 2N), router, residual, head. Norms, activations,
    smoothing and the embedding are left out. The count does not depend on how a kernel computes.

    Raises:
        ValueError: not one count per stage, or a negative number.
    """
    import numpy as np

    units = np.asarray(units, dtype=np.float64)
    if units.shape[-1] != len(config.stages) or units.min(initial=0.0) < 0:
        _check_units(config, units.reshape(-1, units.shape[-1]).min(axis=0).tolist())
    flops = np.zeros_like(units)
    for index, stage in enumerate(config.stages):
        length = context * units[..., index] / np.maximum(units[..., 0], 1e-9)
        keys = mean_keys(length, stage.attention.window) if causal else length
        per_unit = sum(_layer_flops(stage, kind, keys) for kind in stage.layers)
        if not stage.is_innermost:
            per_unit = per_unit + 6.0 * stage.d_model**2
        flops[..., index] = units[..., index] * per_unit
    flops[..., 0] += 2.0 * config.vocab_size * config.stages[0].d_model * units[..., 0]
    return flops


def document_flops(stage: StageConfig, lengths: NDArray[np.number]) -> NDArray[np.float64]:
    """(B,) forward FLOPs of a stage's layers for documents of (B,) units each, counted as in `stage_flops`."""
    import numpy as np

    units = np.asarray(lengths, dtype=np.float64)
    keys = mean_keys(units, stage.attention.window)
    return units * sum(_layer_flops(stage, kind, keys) for kind in stage.layers)


def mean_keys(length: Numbers, window: int) -> Numbers:
    """Keys that a causal query sees on average in a document of `length` units.

    `window` w limits them to w + 1; -1 is no limit.
    """
    import numpy as np

    length = np.maximum(length, 1.0)
    limit: Numbers = length if window < 0 else np.minimum(length, window + 1.0)
    return limit - limit * (limit - 1) / (2 * length)


def _layer_flops(stage: StageConfig, kind: str, keys: Numbers) -> Numbers:
    """FLOPs of one layer for one unit."""
    width = stage.d_model
    mlp = 6.0 * width * stage.mlp_width if kind in "MT" else 0.0
    if kind in "tT":
        return 4.0 * width * keys + 8.0 * width * width + mlp
    inner, num_heads, convolved = _mamba_sizes(stage)
    projections = 2.0 * width * (inner + convolved + num_heads) + 2.0 * inner * width
    return projections + 2.0 * stage.ssm.d_conv * convolved + 6.0 * inner * stage.ssm.d_state + mlp


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
        num_units: units of the micro-batch at every stage, outermost first (T_0 bytes, then chunks).
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
    _check_units(config, num_units)
    parts: dict[str, float] = {}
    largest = 2.0 * _WIDE * config.vocab_size * num_units[0]
    for index, (stage, units) in enumerate(zip(config.stages, num_units, strict=True)):
        saved = 0.0
        for kind in stage.layers:
            kept, temporary = _layer_activations(stage, kind, dtype_bytes)
            if activation_checkpointing:
                kept, temporary = _WIDE * stage.d_model, kept + temporary
            saved += units * kept
            largest = max(largest, units * temporary)
        norms = 1 if stage.is_innermost else 2
        saved += units * norms * stage.d_model * (_WIDE + dtype_bytes)
        if not stage.is_innermost:
            saved += units * 2 * stage.d_model * dtype_bytes
            inner_width = config.stages[index + 1].d_model
            saved += num_units[index + 1] * (inner_width * _WIDE + stage.d_model * _WIDE)
        parts[f"stages.{index}"] = saved
    parts |= {"logits": num_units[0] * config.vocab_size * _WIDE, "temporary": largest}
    return {name: round(size) for name, size in parts.items()}


def _layer_activations(stage: StageConfig, kind: str, size: int) -> tuple[float, float]:
    """Bytes per unit of one layer: kept from forward to backward, and temporary while its gradients are made.

    Every sub-layer keeps its float32 input and the normalised input, then
    attention: q, k, v, the rotated q and k, and the output;
    Mamba-2: z, x, B, C, dt before and x, B, C after the convolution, the scan's output and its states, the gated norm;
    SwiGLU: both halves of the hidden layer and their product.
    """
    width, hidden = stage.d_model, stage.mlp_width
    if kind in "tT":
        kept = 1.0 * width * (_WIDE + size) + 6 * width * size + stage.attention.num_heads * _WIDE
        temporary = (5.0 if stage.attention.window < 0 else 10.0) * width * size
    else:
        inner, num_heads, convolved = _mamba_sizes(stage)
        scan = inner * (1 + stage.ssm.d_state / _SCAN_BLOCK) + 3.0 * num_heads
        if size < _WIDE:
            scan += convolved + inner  # float32 copies for the scan and the gated norm
        kept = width * (_WIDE + size) + size * (inner + 2 * convolved + num_heads + inner) + scan * _WIDE
        temporary = (4.0 * inner + 2 * stage.ssm.d_state) * _WIDE
    if kind in "MT":
        kept += width * (_WIDE + size) + 3 * hidden * size
        temporary = max(temporary, (3.0 * hidden + width) * size)
    return kept, temporary


def _check_units(config: ModelConfig, units: Sequence[float]) -> None:
    if len(units) != len(config.stages):
        raise ValueError(f"{len(units)} unit counts given for {len(config.stages)} stages: give one per stage")
    if min(units) < 0:
        raise ValueError(f"unit counts must not be negative, got {list(units)}")
