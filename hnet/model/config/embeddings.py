"""Configurations of the embeddings."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from hnet.model.config.layers import PositiveInt
from hnet.model.config.part import EmbeddingConfig, PartSizes, Weight


class TableConfig(EmbeddingConfig):
    """One vector for each unit of the vocabulary, and nothing else."""

    type: Literal["table"] = "table"


class HashNgramConfig(EmbeddingConfig):
    """The sum of embeddings of the hashed n-grams that end at a unit (BLT, arXiv 2412.09871, section 3.2.1)."""

    reads_earlier_units: ClassVar[bool] = True

    type: Literal["hash_ngram"] = "hash_ngram"
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (3, 4, 5, 6, 7, 8)
    """Units of the n-grams."""
    functions: Annotated[int, Field(ge=1, le=11)] = 1
    """Hash functions, each with a table for every size."""
    rows: PositiveInt = 500_002
    """Of each table."""
    numbering: Literal["own", "blt"] = "own"
    """Numbers of the units in the hash: our ids, or BLT's (bytes from 4 on, BOS 1, EOS 2), which its weights need."""

    @property
    def num_tables(self) -> int:
        return len(self.sizes) * self.functions

    def lookup(self, width: int) -> int:
        return self.num_tables * self.rows * width

    def weights(self, sizes: PartSizes) -> list[Weight]:
        return [Weight(self.lookup(sizes.width), is_linear=False)]
