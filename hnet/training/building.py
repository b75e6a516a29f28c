"""From a configuration to a model that an engine trains."""

import contextlib
import logging

import torch

from hnet.model.initialization import Whole, draw_as_constructed, initialize
from hnet.model.language_model import LanguageModel
from hnet.model.stack import Block
from hnet.training.config import RunConfig
from hnet.training.engine import Engine
from hnet.training.init_from import take_weights
from hnet.training.mixed_precision import compute_in_bf16
from hnet.training.optimizer import build_optimizer
from hnet.training.training_module import TrainingModule

logger = logging.getLogger(__name__)


def prepare(config: RunConfig, engine: Engine, *, is_new: bool = True) -> None:
    """Build the model, sharded from the start where the engine shards parameters, and hand it to the engine.

    The weights are those that `training.seed` gives, the same on every engine and number of ranks. Unless `is_new`
    they may be left unset, for `Engine.load` to read.
    """
    torch.manual_seed(config.training.seed)
    training = config.training
    keeps_copies = training.precision == "bf16" and not training.activation_checkpointing
    if engine.is_main and engine.shards_parameters and keeps_copies:
        logger.warning(
            "bf16 copies of all weights stay on every rank from the forward to the backward pass; "
            "training.activation_checkpointing=true keeps one block's at a time"
        )
    whole: Whole = contextlib.nullcontext
    if engine.shards_parameters:
        model = LanguageModel(config.model, device="meta")
        _configure(model, config)
        shapes = _shapes(model)
        whole = engine.shard(model)
        if is_new:
            draw_as_constructed(model)
            initialize(model, whole=whole)
    else:
        model = LanguageModel(config.model)
        _configure(model, config)
        shapes = _shapes(model)
        model.to(engine.device)
    if is_new and training.init_from is not None:
        take_weights(model, shapes, training.init_from, whole)
    engine.prepare(TrainingModule(model), build_optimizer(model, config.optimizer))


def _shapes(model: LanguageModel) -> dict[str, torch.Size]:
    """Of whole parameters, before they are sharded."""
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def _configure(model: LanguageModel, config: RunConfig) -> None:
    model.set_activation_checkpointing(config.training.activation_checkpointing)
    if config.training.precision == "bf16":
        compute_in_bf16(model)
    if config.training.compile:
        for module in model.modules():
            if isinstance(module, Block):
                module.compile(dynamic=True)
