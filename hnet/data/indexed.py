"""Documents of an indexable source, epoch after epoch, in order or in an order that the seed and the epoch fix."""

from collections.abc import Iterator

import numpy as np

from hnet.data.document import Document, Source, State
from hnet.data.shuffle import Permutation, derive_key
from hnet.errors import DataError

_BLOCK = 1024


class IndexedDocuments:
    """Yields every non-empty document once per epoch. `epochs` None: without end.

    State: the epoch and the position in it. Nothing of the order is stored, whatever the number of documents.
    """

    def __init__(self, source: Source, *, key: int = 0, shuffle: bool = True, epochs: int | None = None) -> None:
        """Raises DataError if the source holds no text."""
        if not len(source) or not source.total_bytes():
            raise DataError(f"{source.name} holds no text: it has {len(source)} documents and all are empty")
        self._source, self._key, self._shuffle, self._epochs = source, key, shuffle, epochs
        self._size = len(source)
        self._seek(0, 0)

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while True:
            if self._position == self._size:
                self._seek(self._epoch + 1, 0)
            if self._epochs is not None and self._epoch >= self._epochs:
                raise StopIteration
            index = self._index(self._position)
            self._position += 1
            num_bytes = self._source.num_bytes(index)
            if num_bytes:
                return Document(num_bytes, self._source, index)

    def state_dict(self) -> State:
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: State) -> None:
        self._seek(state["epoch"], state["position"])

    def _seek(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._block: list[int] = []
        self._block_start = 0
        self._permutation = Permutation(self._size, derive_key(self._key, epoch)) if self._shuffle else None

    def _index(self, position: int) -> int:
        if self._permutation is None:
            return position
        offset = position - self._block_start
        if not 0 <= offset < len(self._block):
            block = np.arange(position, min(position + _BLOCK, self._size), dtype=np.int64)
            self._block, self._block_start, offset = self._permutation(block).tolist(), position, 0
        return self._block[offset]
