"""Optimizer groups by stage and weight decay, and the stages' learning-rate factors."""

import math
from typing import Any

from torch import nn

from hnet.model.blocks.mamba2 import DepthwiseConv
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel

BYTES_PER_TOKEN = 4.6
"""N_GPT of eq. 11: bytes per token of the GPT-2 tokenizer on the paper's text."""


def lr_multipliers(config: ModelConfig) -> tuple[float, ...]:
    """Learning-rate factor of every stage, outermost first (H-Net paper, eq. 11).

    lambda_s = sqrt(N_GPT * prod_{i>=s} N_i / prod_{i>=0} N_i * D_S / D_s), with N_S = 1 at the innermost stage.
    """
    ratios = [stage.boundary.units_per_chunk for stage in config.stages[:-1]] + [1.0]
    widths = [stage.d_model for stage in config.stages]
    return tuple(
        math.sqrt(BYTES_PER_TOKEN / math.prod(ratios[:stage]) * widths[-1] / widths[stage])
        for stage in range(len(ratios))
    )


def stage_of(parameter_name: str) -> int:
    """Index of the stage that owns a parameter; embedding and head belong to stage 0."""
    return parameter_name.split(".").count("inner")


def parameter_groups(
    model: LanguageModel, *, weight_decay: float, decay_embeddings: bool = False
) -> list[dict[str, Any]]:
    """Groups `{params, names, stage, weight_decay}`, every parameter in exactly one.

    Weights of linear and convolution layers decay; norms, biases, `A_log`, `D`, `dt_bias`, `width_pad` and, unless
    asked for, embeddings do not. The rule goes by module, not by shape, since ZeRO-3 shards hide shapes.
    """
    decaying = set()
    for module_name, module in model.named_modules():
        if isinstance(module, (nn.Linear, DepthwiseConv)) or (decay_embeddings and isinstance(module, nn.Embedding)):
            decaying.add(f"{module_name}.weight")
    if model.config.tie_embeddings and not decay_embeddings:
        decaying -= {"embedding.weight", "head.weight"}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        decays = name in decaying
        stage = stage_of(name)
        empty = {"params": [], "names": [], "stage": stage, "weight_decay": weight_decay if decays else 0.0}
        group = groups.setdefault((stage, decays), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]
