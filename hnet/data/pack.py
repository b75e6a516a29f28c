"""Documents into windows of a fixed number of units: the global window stream, of which ranks take their share."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from hnet.data.document import State
from hnet.data.encode import EncodedDocuments, Units

LOOK_AHEAD = 32
"""Documents among which `whole` packing looks for one that fits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Units start .. stop-1 of a document: one packed sequence."""

    units: Units
    start: int
    stop: int


Window = list[Piece]
"""Pieces that are packed together, at most `sequence_length` units."""


class Packer(Protocol):
    """A resumable stage that yields windows.

    Where a cut would leave the last unit of a document alone, that unit is dropped: it predicts nothing. So every
    window has targets.
    """

    def __iter__(self) -> Iterator[Window]: ...

    def __next__(self) -> Window: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


def make_packer(documents: EncodedDocuments, sequence_length: int, packing: Literal["split", "whole"]) -> Packer:
    """The packer of that name."""
    return (SplitPacker if packing == "split" else WholePacker)(documents, sequence_length)


class SplitPacker:
    """Fills every window and cuts the document at its end; the rest opens the next window.

    With the label across the cut every unit is predicted once per epoch.
    State: the position of the documents before the one in use, and the units used of that one.
    """

    def __init__(self, documents: EncodedDocuments, sequence_length: int) -> None:
        self._documents, self._length = documents, sequence_length
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
            stop = min(units.num_units, self._offset + room)
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


@dataclass(slots=True)
class _Drawn:
    units: Units
    before: State
    """Position of the documents before this one."""
    packed: bool = False


class WholePacker:
    """Cuts only documents longer than a window; windows may be shorter than `sequence_length`.

    A window begins with the oldest document that waits and takes those of the next `LOOK_AHEAD` that fit, oldest first.
    A longer document is cut at the ends of windows of its own; its last piece is packed like a document.
    State: the position of the documents before the oldest that waits, the units used of it, and which of those drawn
    since are packed already; a resume draws them again.
    """

    def __init__(self, documents: EncodedDocuments, sequence_length: int) -> None:
        self._documents, self._length = documents, sequence_length
        self._drawn: deque[_Drawn] = deque()
        self._num_waiting = 0
        self._offset = 0

    def __iter__(self) -> Iterator[Window]:
        return self

    def __next__(self) -> Window:
        while self._num_waiting < LOOK_AHEAD and self._draw():
            pass
        if not self._drawn:
            raise StopIteration
        oldest = self._drawn[0].units
        stop = min(oldest.num_units, self._offset + self._length)
        window = [Piece(oldest, self._offset, stop)]
        room = self._length - (stop - self._offset)
        self._offset = stop
        if stop < oldest.num_units - 1:
            return window
        self._offset = 0
        self._pack(self._drawn[0])
        for entry in self._drawn:
            if not entry.packed and entry.units.num_units <= room:
                window.append(Piece(entry.units, 0, entry.units.num_units))
                room -= entry.units.num_units
                self._pack(entry)
        while self._drawn and self._drawn[0].packed:
            self._drawn.popleft()
        return window

    def state_dict(self) -> State:
        documents = self._drawn[0].before if self._drawn else self._documents.state_dict()
        return {"documents": documents, "offset": self._offset, "packed": [int(entry.packed) for entry in self._drawn]}

    def load_state_dict(self, state: State) -> None:
        self._documents.load_state_dict(state["documents"])
        self._drawn.clear()
        self._num_waiting, self._offset = 0, state["offset"]
        for packed in state["packed"]:
            self._draw()
            if packed:
                self._pack(self._drawn[-1])

    def _draw(self) -> bool:
        before = self._documents.state_dict()
        try:
            self._drawn.append(_Drawn(next(self._documents), before))
        except StopIteration:
            return False
        self._num_waiting += 1
        return True

    def _pack(self, entry: _Drawn) -> None:
        entry.packed = True
        self._num_waiting -= 1
