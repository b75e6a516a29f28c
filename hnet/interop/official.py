"""Names and configuration of the official H-Net release, in both directions of the mapping.

The official state dict calls the model `backbone`, every inner stage `main_network`, and the innermost stack once
more `main_network`; see `to_official`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hnet.model.config import ModelConfig, StageConfig

_PARTS = {
    "router.q_proj": "routing_module.q_proj_layer",
    "router.k_proj": "routing_module.k_proj_layer",
    "residual": "residual_proj",
    "width_pad": "pad_dimension",
    "main": "main_network",
    "qkv": "Wqkv",
    "conv": "conv1d",
}


def model_config(official: Mapping[str, Any], ratios: Sequence[float]) -> ModelConfig:
    """Our `ModelConfig` for an official JSON config. `ratios` is N of each chunking stage, outermost first."""
    layouts, rest = [], official["arch_layout"]
    while len(rest) == 3:
        layouts.append((rest[0], rest[2]))
        rest = rest[1]
    attention, ssm = official["attn_cfg"], official["ssm_cfg"]
    stages = []
    for index in range(len(layouts) + 1):
        innermost = index == len(layouts)
        parts: dict[str, Any] = (
            {"main": rest[0]} if innermost else {"encoder": layouts[index][0], "decoder": layouts[index][1]}
        )
        if not innermost:
            parts["boundary"] = {"ratio": ratios[index]}
        stages.append(
            StageConfig(
                d_model=official["d_model"][index],
                d_intermediate=official["d_intermediate"][index],
                attention={
                    "num_heads": attention["num_heads"][index],
                    "rotary_dim": attention["rotary_emb_dim"][index],
                    "window": attention["window_size"][index],
                },
                ssm={key: ssm[key] for key in ("d_state", "d_conv", "expand")},
                **parts,
            )
        )
    return ModelConfig(
        vocab_size=official["vocab_size"], stages=tuple(stages), tie_embeddings=official["tie_embeddings"]
    )


def to_official(name: str) -> str:
    """Official name of one of our parameters."""
    if name == "embedding.weight":
        return "embeddings.weight"
    if name == "head.weight":
        return "lm_head.weight"
    name = re.sub(r"^stage\.", "backbone.", name).replace("inner.", "main_network.")
    for ours, theirs in _PARTS.items():
        name = re.sub(rf"(?<=\.){re.escape(ours)}(?=\.|$)", theirs, name)
    return re.sub(r"(encoder|decoder|main_network)\.norm\.weight$", r"\1.rmsnorm.weight", name)


def from_official(state_dict: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """Our state dict for the parameters `names` from an official one. Raises KeyError for a missing tensor."""
    ours = {}
    for name in names:
        tensor = state_dict[to_official(name)]
        ours[name] = tensor.squeeze(1) if name.endswith("conv.weight") else tensor
    return ours
