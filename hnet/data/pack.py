"""Documents into windows of a fixed number of units: the global window stream, of which ranks take their share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hnet.data.document import State
from hnet.data.encode import EncodedDocuments, Units


@dataclass(frozen=True, slots=True)
class Piece:
    """Units start .. stop-1 of a document: one packed sequence."""

    units: Units
    start: int
    stop: int


Window = list[Piece]
"""Consecutive pieces, together at most `sequence_length` units."""


class Packer:
    """Yields windows.

    `split` fills every window and cuts the document at its end; the rest opens the next window, so that with the label
    across the cut every unit is predicted once per epoch. `whole` opens a new window for a document that does not fit
    in the rest of one, and cuts only documents longer than a window; its windows may be shorter. Where a cut would
    leave the last unit of a document alone, that unit is dropped: it predicts nothing. So every window has targets.

    State: the position of the documents before the one in use, and the units used of that one.
    """

    def __init__(
        self, documents: EncodedDocuments, sequence_length: int, packing: Literal["split", "whole"] = "split"
    ) -> None:
        self._documents, self._length, self._packing = documents, sequence_length, packing
        self._current: Units | None = None
        self._before_current: State = {}
        self._offset = 0

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        window: Window = []
        room = self._length
        while room:
            try:
                units = self._draw()
            except StopIteration:
                if window:
                    return window
                raise
            rest = units.num_units - self._offset
            if rest > room and window and self._packing == "whole":
                return window
            stop = self._offset + min(rest, room)
            window.append(Piece(units, self._offset, stop))
            room -= stop - self._offset
            self._offset = stop
            if stop >= units.num_units - 1:
                self._current, self._offset = None, 0
        return window

    def state_dict(self) -> State:
        documents = self._documents.state_dict() if self._current is None else self._before_current
        return {"documents": documents, "offset": self._offset}

    def load_state_dict(self, state: State) -> None:
        self._documents.load_state_dict(state["documents"])
        self._current, self._offset = None, state["offset"]
        if self._offset:
            self._draw()

    def _draw(self) -> Units:
        if self._current is None:
            before = self._documents.state_dict()
            self._current = next(self._documents)
            self._before_current = before
        return self._current
