"""`Document` and the two things that hold documents: what every later stage of the data room works on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
"""(N,) raw bytes of text; a view of the file where the source is memory-mapped."""

State = dict[str, Any]
"""Position of a stage: JSON-serialisable, a snapshot that later steps do not change."""


class Source(Protocol):
    """Documents with a number. Their sizes are known without reading their bytes."""

    name: str
    """What the user called it, for messages."""

    def __len__(self) -> int:
        """Number of documents, empty ones included."""
        ...

    def num_bytes(self, index: int) -> int:
        """Bytes of document `index`."""
        ...

    def read(self, index: int) -> Bytes:
        """The bytes of document `index`, (num_bytes,) uint8, read-only."""
        ...

    def total_bytes(self) -> int:
        """Bytes of all documents."""
        ...


@dataclass(frozen=True, slots=True)
class Document:
    """One document, not read before `read` is called."""

    num_bytes: int
    source: Source
    index: int
    complete: bool = True
    """False: only the first `num_bytes` of the document are used, and no end-of-document unit follows them."""

    def read(self) -> Bytes:
        """(num_bytes,) uint8."""
        return self.source.read(self.index)[: self.num_bytes]


class Documents(Protocol):
    """A resumable stage that yields documents."""

    def __iter__(self) -> Iterator[Document]: ...

    def __next__(self) -> Document: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


@dataclass(slots=True)
class LoadedSource:
    """One document that is held in memory already, as streamed ones are."""

    data: Bytes
    name: str = field(default="memory")

    def __len__(self) -> int:
        return 1

    def num_bytes(self, index: int) -> int:
        return int(self.data.size)

    def read(self, index: int) -> Bytes:
        return self.data

    def total_bytes(self) -> int:
        return int(self.data.size)


def loaded_document(text: bytes) -> Document:
    """A document of bytes in memory."""
    return Document(len(text), LoadedSource(np.frombuffer(text, dtype=np.uint8)), 0)


def text_bytes(value: str | bytes | None) -> bytes:
    """Bytes of a table's cell. UTF-8; what is no character (a lone surrogate) keeps its own three bytes."""
    if value is None:
        return b""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
