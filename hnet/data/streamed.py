"""Documents that arrive one after another, shuffled within blocks."""

import logging
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from hnet.data.document import Document, State, loaded_document
from hnet.data.shuffle import Permutation, derive_key
from hnet.errors import DataError

logger = logging.getLogger(__name__)
_UNSHUFFLED_BLOCK = 64


class Reader(Protocol):
    """One pass over a streamed source."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def position(self) -> Any:
        """Where the next document begins, JSON-serialisable."""
        ...


@runtime_checkable
class StreamedSource(Protocol):
    """Text that can only be read from its beginning, or from a position that a reader gave."""

    name: str

    def open(self, position: Any) -> Reader:
        """Read on from `position`; None is the beginning."""
        ...


class StreamedDocuments:
    """Yields the non-empty documents of a stream, epoch after epoch; `epochs` None: without end.

    `buffer` documents are read at a time and yielded in an order that the key, the epoch and the number of the block
    fix. State: where the block in use begins and the place in it; a resume reads that block again, no text is saved.
    """

    def __init__(
        self,
        source: StreamedSource,
        *,
        key: int = 0,
        buffer: int = 10_000,
        shuffle: bool = True,
        epochs: int | None = None,
    ) -> None:
        self._source, self._key, self._shuffle, self._epochs = source, key, shuffle, epochs
        self._size = buffer if shuffle else min(buffer, _UNSHUFFLED_BLOCK)
        self._epoch = self._block_number = self._taken = 0
        self._block_start: Any = None
        self._block: list[bytes] | None = None
        self._reader: Reader | None = None
        self.num_empty = 0
        """Empty documents passed over so far."""
        self._reported_empty = False

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while self._epochs is None or self._epoch < self._epochs:
            if self._block is None:
                self._block = self._read_block()
            if self._taken < len(self._block):
                text = self._block[self._taken]
                self._taken += 1
                return loaded_document(text)
            self._next_block()
        raise StopIteration

    def state_dict(self) -> State:
        return {
            "epoch": self._epoch,
            "block": self._block_number,
            "block_start": self._block_start,
            "taken": self._taken,
        }

    def load_state_dict(self, state: State) -> None:
        self._epoch, self._block_number, self._taken = state["epoch"], state["block"], state["taken"]
        self._block_start = state["block_start"]
        self._block = self._reader = None

    def _next_block(self) -> None:
        """Move on to the following block, of the next epoch if the source gave nothing more."""
        assert self._block is not None and self._reader is not None
        self._taken = 0
        if self._block:
            self._block_start = self._reader.position()
            self._block_number += 1
        else:
            if self._block_number == 0:
                raise DataError(f"{self._source.name} holds no text: no document of it has a byte")
            if self.num_empty and not self._reported_empty:
                self._reported_empty = True
                logger.warning("%s: %d empty documents were skipped in an epoch", self._source.name, self.num_empty)
            self._epoch, self._block_number = self._epoch + 1, 0
            self._block_start = self._reader = None
        self._block = None

    def _read_block(self) -> list[bytes]:
        if self._reader is None:
            self._reader = self._source.open(self._block_start)
        block: list[bytes] = []
        for text in self._reader:
            if text:
                block.append(text)
            else:
                self.num_empty += 1
            if len(block) == self._size:
                break
        if self._shuffle and block:
            order = Permutation(len(block), derive_key(self._key, self._epoch, self._block_number))
            block = [block[i] for i in order(np.arange(len(block), dtype=np.int64)).tolist()]
        return block
