"""Documents as units: bytes or tokens between a beginning and an end."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnet.data.document import Document, Documents, State
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer
from hnet.segmentation.rule import BOS, EOS

Ids = NDArray[np.int64]


class Units(Protocol):
    """The units of one document: BOS, text, EOS (none where the document was cut short)."""

    num_units: int
    document: Document

    def fill(self, out: Ids, start: int, stop: int) -> None:
        """Write units start .. stop-1 into `out` (stop - start,)."""
        ...

    def text_bytes(self, start: int, stop: int) -> int:
        """Bytes of text that units start .. stop-1 stand for; BOS and EOS stand for none."""
        ...


class ByteUnits:
    """Unit 0 is BOS, unit i is byte i - 1, then EOS. The bytes are read when a window asks for them."""

    __slots__ = ("document", "num_units")

    def __init__(self, document: Document) -> None:
        self.document = document
        self.num_units = document.num_bytes + 1 + document.complete

    def fill(self, out: Ids, start: int, stop: int) -> None:
        end_of_text = self.document.num_bytes + 1
        first, last = max(start, 1), min(stop, end_of_text)
        if start == 0:
            out[0] = BOS
        if last > first:
            out[first - start : last - start] = self.document.read()[first - 1 : last - 1]
        if stop > end_of_text:
            out[-1] = EOS

    def text_bytes(self, start: int, stop: int) -> int:
        return max(0, min(stop, self.document.num_bytes + 1) - max(start, 1))


class TokenUnits:
    """Tokens, held while the document is in use."""

    __slots__ = ("_bytes_before", "_ids", "document", "num_units")

    def __init__(self, document: Document, tokenizer: FileTokenizer) -> None:
        self.document = document
        ids, lengths = tokenizer.encode_with_lengths(document.read().tobytes())
        last = [tokenizer.eos] if document.complete else []
        self._ids: Ids = np.concatenate([[tokenizer.bos], ids, last]).astype(np.int64)
        self._bytes_before = np.concatenate([[0, 0], np.cumsum(lengths), [lengths.sum()] * len(last)])
        self.num_units = len(self._ids)

    def fill(self, out: Ids, start: int, stop: int) -> None:
        out[:] = self._ids[start:stop]

    def text_bytes(self, start: int, stop: int) -> int:
        return int(self._bytes_before[stop] - self._bytes_before[start])


class EncodedDocuments:
    """Units of each document. Bytes cost nothing here; tokens are made for every document, on every rank."""

    def __init__(self, documents: Documents, tokenizer: ByteTokenizer | FileTokenizer) -> None:
        self._documents, self._tokenizer = documents, tokenizer

    def __iter__(self) -> Iterator[Units]:
        return self

    def __next__(self) -> Units:
        document = next(self._documents)
        if isinstance(self._tokenizer, FileTokenizer):
            return TokenUnits(document, self._tokenizer)
        return ByteUnits(document)

    def state_dict(self) -> State:
        return self._documents.state_dict()

    def load_state_dict(self, state: State) -> None:
        self._documents.load_state_dict(state)
