"""Configurations of the embeddings."""

from typing import Literal

from hnet.model.config.part import EmbeddingConfig


class TableConfig(EmbeddingConfig):
    """One vector for each unit of the vocabulary, and nothing else."""

    type: Literal["table"] = "table"
