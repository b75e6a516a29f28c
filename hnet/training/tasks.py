"""The batches that a run's objective asks for."""

from typing import Literal

from hnet.data.labels import DocumentLabels
from hnet.data.masked_words import MaskedWords, Masking
from hnet.data.subwords import load_subwords
from hnet.data.task import NextUnits, Task
from hnet.model.config.objectives import ClassificationConfig, MaskedWordsConfig
from hnet.training.config import RunConfig


def build_task(config: RunConfig, split: Literal["train", "validation"]) -> Task:
    """What becomes of windows of `split`. Held-out text is hidden in the same way at every pass, whatever the seed.

    Raises DataError or ConfigError if the sub-words cannot be used.
    """
    objective, layout = config.model.objective, config.model.layout()
    if isinstance(objective, MaskedWordsConfig):
        masking = Masking(objective.slots, objective.fraction, objective.masked, objective.exchanged)
        subwords = load_subwords(config.data.subwords, objective.vocab_size)
        return MaskedWords(layout, subwords, masking, seed=config.training.seed if split == "train" else 0)
    if isinstance(objective, ClassificationConfig):
        return DocumentLabels(layout, objective.labels)
    return NextUnits(layout)
