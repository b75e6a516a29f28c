"""Configurations of the objectives: what a model is to say about its units, its words or its documents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hnet.model.config.part import PartConfig, Weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Count = float | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadSizes:
    """What a head knows of the model before it."""

    width: int
    """D of what the outermost stage gives."""
    vocab_size: int
    """Units that the model reads."""
    norm_eps: float


class ObjectiveConfig(PartConfig):
    """The head of a model, and what its targets are."""

    predicts_next: ClassVar[bool] = False
    """The targets are the following units: nothing may see them, and the model can continue a text."""
    of_chunks: ClassVar[bool] = False
    """The targets are of the outermost chunks, which the loader must know."""
    target: ClassVar[str] = "unit"
    """What one target is, in the names of measures."""

    @property
    def document_pool(self) -> Literal["mean", "first"] | None:
        """How a document becomes the one vector that the head reads; None: it reads words or units."""
        return None

    def head_weights(self, sizes: HeadSizes) -> list[Weight]:
        """The head's parameters, in its order."""
        raise NotImplementedError

    def num_rows(self, units: Count, chunks: Count, documents: Count) -> Count:
        """Rows that the head reads of so many units, outermost chunks and documents."""
        raise NotImplementedError

    def num_logits(self, sizes: HeadSizes) -> int:
        """Of one row."""
        raise NotImplementedError

    def head_flops(self, sizes: HeadSizes) -> float:
        """Forward FLOPs of the head for one row of targets: a unit, a word or a document."""
        return 2.0 * sum(weight.numbers for weight in self.head_weights(sizes) if weight.is_linear)


class NextUnitConfig(ObjectiveConfig):
    """The next unit of the document: bytes, or tokens."""

    predicts_next: ClassVar[bool] = True

    type: Literal["next_unit"] = "next_unit"

    def head_weights(self, sizes: HeadSizes) -> list[Weight]:
        return [Weight(sizes.width * sizes.vocab_size)]

    def num_rows(self, units: Count, chunks: Count, documents: Count) -> Count:
        return units

    def num_logits(self, sizes: HeadSizes) -> int:
        return sizes.vocab_size


class MaskedWordsConfig(ObjectiveConfig):
    """The sub-words of words that are hidden, all of a word at once (Byte2Word, arXiv 2211.12677)."""

    of_chunks: ClassVar[bool] = True
    target: ClassVar[str] = "masked_subword"

    type: Literal["masked_words"] = "masked_words"
    vocab_size: Annotated[int, Field(ge=2)] = 2048
    """Sub-words: at least as many as `data.subwords` has."""
    slots: Annotated[int, Field(ge=1)] = 4
    """k: sub-words of a word that are predicted, its first ones."""
    head_width: Annotated[int, Field(ge=1)] | None = None
    """E of the hidden layer before the vocabulary. Null: as wide as the words."""
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the words that are targets."""
    masked: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Share of the targets that are replaced by the mask symbol."""
    exchanged: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the targets that are replaced by another word of the window; the rest stay as they are."""

    @model_validator(mode="after")
    def _shares(self) -> MaskedWordsConfig:
        if self.masked + self.exchanged > 1:
            raise ValueError(f"masked {self.masked} + exchanged {self.exchanged} is more than 1")
        return self

    def head_weights(self, sizes: HeadSizes) -> list[Weight]:
        hidden = self.head_width or sizes.width
        slots = Weight(self.slots * sizes.width)
        transform = [Weight(sizes.width * hidden), Weight(hidden, is_linear=False), Weight(hidden, is_linear=False)]
        return [slots, *transform, Weight(hidden * self.vocab_size), Weight(self.vocab_size, is_linear=False)]

    def num_rows(self, units: Count, chunks: Count, documents: Count) -> Count:
        return self.fraction * chunks

    def num_logits(self, sizes: HeadSizes) -> int:
        return self.slots * self.vocab_size

    def head_flops(self, sizes: HeadSizes) -> float:
        hidden = self.head_width or sizes.width
        return self.slots * 2.0 * hidden * (sizes.width + self.vocab_size)


class ClassificationConfig(ObjectiveConfig):
    """The label of a document."""

    target: ClassVar[str] = "label"

    type: Literal["classification"] = "classification"
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    """What the label column holds, in the order of the logits; numbers as their digits."""
    pool: Literal["mean", "first"] = "mean"
    """What of the document is read: the mean of its words (or units), or its first, which is its beginning symbol."""

    @model_validator(mode="after")
    def _distinct(self) -> ClassificationConfig:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels are {list(self.labels)}: give each once")
        return self

    @property
    def document_pool(self) -> Literal["mean", "first"]:
        return self.pool

    def head_weights(self, sizes: HeadSizes) -> list[Weight]:
        return [Weight(sizes.width * len(self.labels)), Weight(len(self.labels), is_linear=False)]

    def num_rows(self, units: Count, chunks: Count, documents: Count) -> Count:
        return documents

    def num_logits(self, sizes: HeadSizes) -> int:
        return len(self.labels)
