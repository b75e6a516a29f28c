"""Configurations of the boundary sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from hnet.model.config.part import BoundaryConfig, Cost, PartSizes, Weight

if TYPE_CHECKING:
    from hnet.segmentation.rule import Rule

SEPARATORS = (253, 252, 251, 250, 249, 248, 247, 246, 245)
"""Byte values that occur in no UTF-8, in the order in which they are used."""
NumSeparators = Annotated[int, Field(ge=0, le=len(SEPARATORS))]


class RouterConfig(BoundaryConfig):
    """H-Net's learned boundaries: cosine of neighbouring projected states (H-Net paper eq. 4)."""

    reads_encoder: ClassVar[bool] = True

    type: Literal["router"] = "router"
    ratio: Annotated[float, Field(gt=1)] = 6.0
    """N of the ratio loss: the wanted number of this stage's units per chunk."""
    loss_weight: Annotated[float, Field(ge=0)] = 0.03
    """alpha of the ratio loss (H-Net paper: 0.03 in all experiments)."""
    max_chunk_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Most chunks per unit of a pack; beyond it the least confident boundaries are dropped. Null: no bound."""
    fill_chunks: bool = False
    """Open as many chunks as `max_chunk_fraction` allows, where the router wants fewer at the likeliest other units: no
    shape depends on data then, and the host never waits for a GPU's count."""

    @model_validator(mode="after")
    def _filled_to_a_bound(self) -> RouterConfig:
        if self.fill_chunks and self.max_chunk_fraction is None:
            raise ValueError("fill_chunks needs max_chunk_fraction, which says how many chunks there are")
        return self

    @property
    def units_per_chunk(self) -> float:
        return self.ratio

    @property
    def weight_of_loss(self) -> float:
        return self.loss_weight

    @property
    def chunk_bound(self) -> float | None:
        return self.max_chunk_fraction

    @property
    def is_learned(self) -> bool:
        return True

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return [Weight(sizes.width**2)] * 2

    def flops(self, sizes: PartSizes) -> Cost:
        return Cost(unit=4.0 * sizes.width**2)

    def activations(self, sizes: PartSizes, dtype_bytes: int) -> Cost:
        return Cost(unit=2.0 * sizes.width * dtype_bytes)


class FixedConfig(BoundaryConfig):
    """Every `stride` units (MEGABYTE, arXiv 2305.07185)."""

    chunks_are_equal: ClassVar[bool] = True

    type: Literal["fixed"] = "fixed"
    stride: Annotated[int, Field(ge=1)] = 6
    """Units of a chunk, without separators."""
    separators: NumSeparators = 0
    """Units put in front of every chunk, which the model does not predict."""

    @property
    def look_ahead(self) -> int:
        return 0 if self.separators else -1

    @property
    def units_per_chunk(self) -> float:
        return self.stride + self.separators

    @property
    def separator_ids(self) -> tuple[int, ...]:
        return SEPARATORS[: self.separators]

    @property
    def predicts_separator(self) -> bool:
        return False

    def rule(self) -> Rule | None:
        from hnet.segmentation.fixed import FixedRule

        return FixedRule(self.stride) if self.separators else None


class SpaceLikeConfig(BoundaryConfig):
    """Where a run of bytes begins that are neither letters, digits nor inside a character (SpaceByte, arXiv
    2404.14408)."""

    reads_marks: ClassVar[bool] = True

    type: Literal["space_like"] = "space_like"
    begins: Literal["at", "after"] = "at"
    """A chunk begins at the space-like byte (SpaceByte) or after it (BLT's patches by space)."""
    expected: Annotated[float, Field(gt=1)] = 5.5
    """Bytes per chunk to plan with."""

    @property
    def look_ahead(self) -> int:
        return 0 if self.begins == "at" else -1

    @property
    def units_per_chunk(self) -> float:
        return self.expected

    def rule(self) -> Rule | None:
        from hnet.segmentation.space_like import SpaceLikeRule

        return SpaceLikeRule(self.begins)


class WordsConfig(BoundaryConfig):
    """Words (HAT, arXiv 2501.10322, and hat-splitter); docs/segmentation.md has the rules."""

    reads_marks: ClassVar[bool] = True

    type: Literal["words"] = "words"
    split: Literal["unicode", "white_space"] = "unicode"
    """By the word bounds of Unicode's annex 29 with punctuation, or white space with the word before it."""
    max_bytes: Annotated[int, Field(ge=4)] | None = 100
    """Longer words are cut. Null: no limit."""
    separators: NumSeparators = 0
    """Units put in front of every word; the model predicts the first, which says that a word has ended."""
    expected: Annotated[float, Field(gt=1)] = 5.5
    """Bytes per chunk to plan with, without separators."""

    @property
    def look_ahead(self) -> int:
        return 0 if self.separators else 3

    @property
    def units_per_chunk(self) -> float:
        return self.expected + self.separators

    @property
    def separator_ids(self) -> tuple[int, ...]:
        return SEPARATORS[: self.separators]

    def rule(self) -> Rule | None:
        from hnet.segmentation.words import WordsRule

        return WordsRule(self.split, self.max_bytes)
