"""Weights to start a new run from: those of another run that fit."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hnet.errors import ConfigError
from hnet.model.initialization import Whole
from hnet.model.loading import checkpoint_folder
from hnet.model.saved_tensors import SavedTensors

logger = logging.getLogger(__name__)


@torch.no_grad()
def take_weights(model: nn.Module, shapes: Mapping[str, torch.Size], path: str, whole: Whole) -> None:
    """Set every parameter of which the checkpoint or run folder `path` has one of the same name and shape.

    `shapes` are those of the whole parameters; `whole` lends them where they are sharded, and every rank calls.
    Raises CheckpointError if there is no checkpoint, ConfigError if nothing of it fits.
    """
    saved = SavedTensors(checkpoint_folder(Path(path)))
    fitting = [name for name, shape in shapes.items() if saved.shapes.get(name) == shape]
    if not fitting:
        raise ConfigError(
            f"training.init_from: no parameter of {path} has the name and shape of one of this model's; "
            "give a checkpoint of a model with the same stages"
        )
    parameters = dict(model.named_parameters())
    for name in fitting:
        with whole(parameters[name]) as values:
            values.copy_(saved.tensor(name))
    new = [name for name in shapes if name not in fitting]
    logger.info("%d of %d parameters are from %s; new: %s", len(fitting), len(shapes), path, ", ".join(new) or "none")
