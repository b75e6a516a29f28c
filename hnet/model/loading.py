"""`build` a model from a configuration, `load` one from a run or checkpoint folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hnet.config import load_config
from hnet.errors import CheckpointError
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel


def build(
    model: str | Path | Mapping[str, Any] | ModelConfig,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> LanguageModel:
    """A freshly initialised model. `model` is a name in `configs/models`, a YAML path, a mapping or a `ModelConfig`.

    On `device="meta"` nothing is allocated. Raises ConfigError for a configuration that cannot be used.
    """
    config = model if isinstance(model, ModelConfig) else load_config(ModelConfig, model)
    return LanguageModel(config, device=device, dtype=dtype)
