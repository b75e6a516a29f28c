"""The declaration of a model: a flat list of stages, outermost first. Imports no torch."""

from hnet.model.config.boundaries import RouterConfig
from hnet.model.config.layers import LAYER_KINDS, AttentionConfig, SSMConfig, parse_layers
from hnet.model.config.model import ModelConfig
from hnet.model.config.pools import SelectConfig
from hnet.model.config.stage import StageConfig
from hnet.model.config.unpools import EMAConfig

__all__ = [
    "LAYER_KINDS",
    "AttentionConfig",
    "EMAConfig",
    "ModelConfig",
    "RouterConfig",
    "SSMConfig",
    "SelectConfig",
    "StageConfig",
    "parse_layers",
]
