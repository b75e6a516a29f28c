"""What becomes of windows of text: the batches of one objective."""

from collections.abc import Sequence
from typing import Protocol

from hnet.data.batch import Batch
from hnet.data.collate import collate, empty_batch
from hnet.data.pack import Window
from hnet.segmentation.layout import PLAIN, Layout


class Task(Protocol):
    """Inputs and labels of windows, the same whatever the number of ranks and micro-batches."""

    layout: Layout
    """How the model reads text."""
    identity: dict[str, object]
    """What the batches depend on besides the windows."""

    def batch(self, windows: Sequence[Window], number: int) -> Batch:
        """At least one window; `number` is that of the first in the stream."""
        ...

    def empty(self, unit: int) -> Batch:
        """One sequence of one unit without targets: for a rank that must take part but has no data."""
        ...


class NextUnits:
    """The labels are the units that follow."""

    def __init__(self, layout: Layout = PLAIN) -> None:
        self.layout = layout
        self.identity: dict[str, object] = {}

    def batch(self, windows: Sequence[Window], number: int) -> Batch:
        return collate(windows, self.layout)

    def empty(self, unit: int) -> Batch:
        return empty_batch(unit, self.layout)
