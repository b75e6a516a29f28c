"""The small language model behind entropy boundaries: how uncertain it is of the next unit."""

import json
import logging
import zlib
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from hnet.config import load_config, save_config
from hnet.errors import CheckpointError
from hnet.model.config import ModelConfig
from hnet.model.config.entropy import SCORER_FOLDER, EntropyConfig
from hnet.model.language_model import LanguageModel
from hnet.model.loading import CONFIG, WEIGHTS, check_fits, checkpoint_folder
from hnet.model.saved_tensors import SavedTensors

logger = logging.getLogger(__name__)


class ModelScorer:
    """Entropies of a language model, computed in float32 on the CPU or on this process's accelerator."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    @torch.no_grad()
    def entropies(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) nats of the prediction after each of the units (N,)."""
        units = torch.from_numpy(np.ascontiguousarray(ids)).to(next(self.model.parameters()).device)
        found: NDArray[np.float32] = entropy(self.model(units).logits).cpu().numpy()
        return found

    @cached_property
    def checksum(self) -> int:
        """CRC-32 of the weights."""
        total = 0
        for parameter in self.model.parameters():
            total = zlib.crc32(parameter.detach().cpu().numpy().tobytes(), total)
        return total

    def tracker(self) -> "ModelTracker":
        """The same, unit by unit."""
        return ModelTracker(self.model)


class ModelTracker:
    """One document's state of the scorer."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._cache, self._begun = model, model.new_cache(1), False

    @torch.no_grad()
    def push(self, unit: int) -> float:
        """Entropy in nats of what follows this unit."""
        device = next(self._model.parameters()).device
        units = torch.tensor([unit], device=device)
        if self._begun:
            logits = self._model.step(units, self._cache)[0]
        else:
            cu_seqlens = torch.tensor([0, 1], dtype=torch.int32, device=device)
            logits = self._model.prefill(units, cu_seqlens, self._cache).logits
        self._begun = True
        return float(entropy(logits)[0])


def entropy(logits: Tensor) -> Tensor:
    """(..., V) -> (...) nats of the softmax, in float32."""
    log_prob = logits.float().log_softmax(-1)
    return -(log_prob.exp() * log_prob).sum(-1)


def open_scorer(config: EntropyConfig) -> ModelScorer:
    """The scorer that a boundary names; one in memory for all that name the same.

    Raises CheckpointError if its weights are missing or do not fit.
    """
    source = None if config.scorer_weights == "random" else _folder(config.scorer_weights)
    return _opened(config.model.model_dump_json(), source, config.device)


def _folder(path: str) -> Path:
    try:
        return checkpoint_folder(Path(path).expanduser()).resolve()
    except CheckpointError as error:
        raise CheckpointError(
            f"scorer_weights: {error}. A checkpoint of a model with entropy boundaries keeps its scorer: its folder "
            f"{SCORER_FOLDER} can be given here"
        ) from error


def save_scorer(config: EntropyConfig, folder: Path) -> list[str]:
    """Write the scorer into a model's checkpoint as one of its own; returns the files, relative to `folder`."""
    target = folder / SCORER_FOLDER
    target.mkdir()
    save_config(config.model, target / CONFIG)
    weights = {name: parameter.cpu().contiguous() for name, parameter in open_scorer(config).model.named_parameters()}
    save_file(weights, target / WEIGHTS, metadata={"format": "pt"})
    return [f"{SCORER_FOLDER}/{name}" for name in (CONFIG, WEIGHTS)]


@lru_cache(maxsize=4)
def _opened(config: str, source: Path | None, device: str) -> ModelScorer:
    settings = load_config(ModelConfig, json.loads(config))
    if source is None:
        logger.warning("boundary.scorer_weights is random: chunks begin anywhere; give a run that trained the scorer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LanguageModel(settings)
    else:
        saved, model = SavedTensors(source), LanguageModel(settings, device="meta")
        check_fits(model, saved)
        model.load_state_dict({name: saved.tensor(name).float() for name in saved}, assign=True, strict=False)
        if settings.tie_embeddings:
            model.head.weight = model.embedding.weight
    place = torch.device("cpu")
    if device == "accelerator" and (accelerator := torch.accelerator.current_accelerator()) is not None:
        place = torch.device(accelerator.type, torch.accelerator.current_device_index())
    return ModelScorer(model.requires_grad_(False).to(place).eval())
