"""`build` a model from a configuration, `load` one from a run or checkpoint folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from hnet.config import load_config
from hnet.errors import CheckpointError, ConfigError
from hnet.model.config import ModelConfig
from hnet.model.language_model import LanguageModel
from hnet.model.saved_tensors import SavedTensors, source_file, whole_file

WEIGHTS = whole_file("model")
CONFIG = "config.yaml"


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


def load(
    path: str | Path, *, device: torch.device | str | None = "cpu", dtype: torch.dtype | None = None
) -> LanguageModel:
    """A trained model in eval mode, from a checkpoint folder, or the latest checkpoint of a run folder.

    Sharded checkpoints are read as they are, tensor by tensor.
    Raises CheckpointError that names the file when something is missing, damaged or does not fit.
    """
    folder = checkpoint_folder(Path(path))
    config = saved_model_config(folder)
    model = LanguageModel(config, device="meta")
    saved = SavedTensors(folder)
    check_fits(model, saved)
    weights = {name: saved.tensor(name).to(device or "cpu") for name in saved}
    model.load_state_dict(weights, assign=True, strict=False)
    if config.tie_embeddings:
        model.head.weight = model.embedding.weight
    if dtype is not None:
        model.cast(dtype)
    return model.eval()


def checkpoint_folder(path: Path) -> Path:
    """The folder that holds the weights: `path` itself, or what `latest` names in it or in its `checkpoints`."""
    if not path.exists():
        raise CheckpointError(f"no such checkpoint or run folder: {path}")
    if source_file(path).exists():
        return path
    for pointer in (path / "latest", path / "checkpoints" / "latest"):
        if pointer.is_dir():
            return pointer
        if pointer.is_file():
            return pointer.parent / pointer.read_text().strip()
    raise CheckpointError(
        f"{path} is no checkpoint: it has neither {WEIGHTS} nor a checkpoints/latest; give a run's output_dir or "
        "one of its checkpoints/step-NNNNNNNN"
    )


def saved_model_config(folder: Path) -> ModelConfig:
    """The model's configuration saved in a checkpoint: `config.yaml` of a run, or of a model alone."""
    file = folder / CONFIG
    if not file.is_file():
        raise CheckpointError(f"{folder} has no {CONFIG}: it is not a complete checkpoint")
    try:
        mapping = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise CheckpointError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(mapping, dict):
        raise CheckpointError(f"{file} does not hold a configuration")
    try:
        return load_config(ModelConfig, mapping.get("model", mapping)).kept_in(folder)
    except ConfigError as error:
        raise CheckpointError(f"{file} holds no usable model: {error}") from error


def check_fits(model: LanguageModel, saved: SavedTensors) -> None:
    """Raises CheckpointError unless names and shapes are those of `model`, whose parameters may be on `meta`."""
    expected, file = dict(model.named_parameters()), saved.source
    missing, extra = sorted(expected.keys() - saved.shapes.keys()), sorted(saved.shapes.keys() - expected.keys())
    if model.config.tie_embeddings:
        extra = [name for name in extra if name != "head.weight"]
    if missing or extra:
        raise CheckpointError(
            f"{file} does not fit its {CONFIG}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}"
        )
    for name, parameter in expected.items():
        if saved.shapes[name] != parameter.shape:
            raise CheckpointError(
                f"{file}: {name} has shape {saved.shapes[name]}, {CONFIG} asks for {tuple(parameter.shape)}"
            )
