"""The first bytes of a stream of documents."""

from collections.abc import Iterator
from dataclasses import replace

from hnet.data.document import Document, Documents, State


class Limited:
    """Passes documents on until `max_bytes` bytes of text are reached; the last one is cut there, before a character.

    What is scored is thus the same text for every tokenizer and window length.
    """

    def __init__(self, documents: Documents, max_bytes: int) -> None:
        self._documents, self._max_bytes, self._used = documents, max_bytes, 0

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        room = self._max_bytes - self._used
        if room <= 0:
            raise StopIteration
        document = next(self._documents)
        if document.num_bytes <= room:
            self._used += document.num_bytes
            return document
        self._used = self._max_bytes
        data = document.read()
        cut = room
        while cut > max(room - 3, 1) and data[cut] & 0xC0 == 0x80:
            cut -= 1
        return replace(document, num_bytes=cut, complete=False)

    def state_dict(self) -> State:
        return {"documents": self._documents.state_dict(), "used_bytes": self._used}

    def load_state_dict(self, state: State) -> None:
        self._documents.load_state_dict(state["documents"])
        self._used = state["used_bytes"]
