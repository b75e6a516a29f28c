"""Weighted mixture of document streams."""

from collections.abc import Iterator, Sequence

from hnet.data.document import Document, Documents, State


class Mixture:
    """Draws the next document from the stream that is furthest behind its share, counted in bytes of text.

    Bytes drawn from stream i over its weight stay equal up to one document per stream at every moment, so the shares
    hold over any stretch and nothing is random. A stream that ends leaves the mixture, which ends with the last one.
    """

    def __init__(self, streams: Sequence[Documents], weights: Sequence[float]) -> None:
        """`weights`: positive, of any sum."""
        self._streams, self._weights = list(streams), list(weights)
        self._drawn = [0] * len(self._streams)
        self._ended = [False] * len(self._streams)

    def __iter__(self) -> Iterator[Document]:
        return self

    def __next__(self) -> Document:
        while True:
            live = [i for i, ended in enumerate(self._ended) if not ended]
            if not live:
                raise StopIteration
            chosen = live[0] if len(live) == 1 else min(live, key=lambda i: self._drawn[i] / self._weights[i])
            try:
                document = next(self._streams[chosen])
            except StopIteration:
                self._ended[chosen] = True
                continue
            self._drawn[chosen] += document.num_bytes
            return document

    def state_dict(self) -> State:
        return {
            "streams": [stream.state_dict() for stream in self._streams],
            "drawn_bytes": list(self._drawn),
            "ended": list(self._ended),
        }

    def load_state_dict(self, state: State) -> None:
        for stream, stream_state in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(stream_state)
        self._drawn, self._ended = list(state["drawn_bytes"]), list(state["ended"])
