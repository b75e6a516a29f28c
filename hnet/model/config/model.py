"""A whole model: its stages, and what surrounds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from hnet.config.base import Config
from hnet.model.config.checks import check_stages
from hnet.model.config.embeddings import TableConfig
from hnet.model.config.layers import PositiveInt
from hnet.model.config.objectives import HeadSizes, NextUnitConfig
from hnet.model.config.registry import EmbeddingField, ObjectiveField
from hnet.model.config.stage import StageConfig

if TYPE_CHECKING:
    from pathlib import Path

    from hnet.segmentation.layout import Layout


class ModelConfig(Config):
    config_folder: ClassVar[str | None] = "models"

    vocab_size: PositiveInt = 256
    """256 for bytes (BOS 254, EOS 255); a `tokenizers` vocabulary's size for a token baseline."""
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1)]
    """Outermost first. One stage with `main` alone is a flat model."""
    embedding: EmbeddingField = TableConfig()
    """What is added to the table of units."""
    objective: ObjectiveField = NextUnitConfig()
    """What the model is to say: the next unit, masked words, or the label of a document."""
    tie_embeddings: bool = False
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5

    @model_validator(mode="after")
    def _nesting(self) -> ModelConfig:
        for index, stage in enumerate(self.stages):
            innermost = index == len(self.stages) - 1
            if stage.is_innermost != innermost:
                need = (
                    "`main` (it is the innermost)" if innermost else "`encoder` and `decoder` (it is not the innermost)"
                )
                raise ValueError(f"stages[{index}] needs {need}")
            if index and stage.d_model < self.stages[index - 1].d_model:
                raise ValueError(
                    f"stages[{index}].d_model {stage.d_model} is smaller than the stage outside it, "
                    f"{self.stages[index - 1].d_model}: widths may not shrink inwards"
                )
        check_stages(self.stages, self.objective)
        if self.tie_embeddings and not self.objective.predicts_next:
            raise ValueError(f"tie_embeddings: objective {self.objective.type} has no head over units; leave it out")
        return self

    @property
    def is_causal(self) -> bool:
        """No output depends on later units, and it is the next one: the model can continue a text."""
        return self.objective.predicts_next and all(
            mask != "bidirectional"
            for stage in self.stages
            for mask in (stage.encoder_mask, stage.main_mask, stage.decoder_mask)
        )

    @property
    def gives_chunks(self) -> bool:
        """The outermost stage gives its chunks, and the head reads these."""
        return not self.stages[0].is_innermost and self.stages[0].unpool.gives_chunks

    @property
    def head_sizes(self) -> HeadSizes:
        """What the head of `objective` knows."""
        width = self.stages[0].d_model
        if self.gives_chunks:
            width = self.stages[0].pool.chunk_width(width, self.stages[1].d_model)
        return HeadSizes(width, self.vocab_size, self.norm_eps)

    @property
    def needs_marks(self) -> bool:
        """Boundaries come with the units, from `layout`."""
        return not self.stages[0].is_innermost and self.stages[0].boundary.reads_marks

    def layout(self) -> Layout:
        """How text becomes the units of this model, and where its chunks begin."""
        from hnet.segmentation.layout import PLAIN, Layout

        outermost = self.stages[0]
        if outermost.is_innermost:
            return PLAIN
        boundary = outermost.boundary
        return Layout(boundary.rule(), boundary.separator_ids, boundary.predicts_separator)

    def keep(self, folder: Path) -> list[str]:
        """Write what the boundaries read besides this configuration into a checkpoint's `folder`; returns the files."""
        return [name for stage in self.stages if not stage.is_innermost for name in stage.boundary.keep(folder)]

    def kept_in(self, folder: Path) -> ModelConfig:
        """The same model, its boundaries reading what a checkpoint keeps in its `folder`."""
        stages = tuple(stage.model_copy(update={"boundary": stage.boundary.kept_in(folder)}) for stage in self.stages)
        return self.model_copy(update={"stages": stages})
