"""Where text comes from and how it is cut into packed sequences."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hnet.config.base import Allowed, Config


class SourceConfig(Config):
    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, a glob, a prepared byte store, `sample:train` or `sample:validation` (text that ships with the
    package), or the name of a dataset on the Hub."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Share of the mixture, relative to the other sources, counted in bytes of text."""
    split: str = "train"
    """Split of a Hub dataset."""
    subset: str | None = None
    """Configuration name of a Hub dataset."""
    column: str = "text"
    """Column that holds the text."""
    label_column: str | None = None
    """Column of local tables that holds the label of a document, for the objective classification."""
    streaming: bool = False
    """Read a Hub dataset as it downloads (or local tables row after row), without a local copy."""
    split_on: Annotated[str, Field(min_length=1)] | None = None
    """Text that ends a document of a text file, such as a form feed. None: a file of up to 1 MiB is one document, a
    longer one is cut at the first blank line after each 64 KiB."""


Sources = Annotated[
    tuple[SourceConfig, ...],
    Allowed("a path or dataset name, a mapping with path and weight, or a list of these"),
]


def _as_sources(value: Any) -> Any:
    if isinstance(value, (str, dict)):
        value = (value,)
    if not isinstance(value, (list, tuple)):
        return value
    return tuple({"path": item} if isinstance(item, str) else item for item in value)


class DataConfig(Config):
    train: Annotated[Sources, Field(min_length=1)]
    """Paths, dataset names or sources with weights."""
    validation: Sources = ()
    """Held-out text; empty means no validation."""
    tokenizer: str = "bytes"
    """`bytes`, or the path of a `tokenizers` JSON file (BPE baseline)."""
    subwords: str = "sample"
    """Labels of the objective masked_words: `sample` (2,048 that ship with the package), `bytes`, or the path of a
    `tokenizers` JSON file, such as `python -m hnet.data.subwords` makes."""
    sequence_length: Annotated[int, Field(ge=2)] = 2048
    """Units (bytes, or tokens) of one packed window; no sequence is longer."""
    packing: Literal["split", "whole"] = "split"
    """`split` fills every window and cuts documents at its end; `whole` cuts only documents longer than a window."""
    shuffle: bool = True
    """Document order is a permutation that depends on the seed and the epoch alone."""
    shuffle_buffer: Annotated[int, Field(ge=1)] = 10_000
    """Documents of a streamed source that are held and shuffled at a time."""
    prefetch: Annotated[int, Field(ge=0)] = 2
    """Micro-batches prepared ahead in the background; 0 switches it off."""
    validation_bytes: Annotated[int, Field(ge=1)] = 1_000_000
    """Bytes of held-out text scored at each validation, from its beginning."""

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        return _as_sources(value)
