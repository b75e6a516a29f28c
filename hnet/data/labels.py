"""Documents with labels, and batches whose targets are these."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnet.data.batch import IGNORE, Batch
from hnet.data.collate import lay_out_piece
from hnet.data.document import Bytes, Document, Source
from hnet.data.jsonl import read_json_values
from hnet.data.pack import Piece, Window
from hnet.errors import DataError
from hnet.segmentation.layout import LaidOut, Layout


class Labelled:
    """The documents of a source, each with its label."""

    def __init__(self, source: Source, labels: Sequence[str]) -> None:
        self.name, self._source, self._labels = source.name, source, labels

    def __len__(self) -> int:
        return len(self._source)

    def num_bytes(self, index: int) -> int:
        return self._source.num_bytes(index)

    def read(self, index: int) -> Bytes:
        return self._source.read(index)

    def total_bytes(self) -> int:
        return self._source.total_bytes()

    def label(self, index: int) -> str:
        """Of document `index`."""
        return self._labels[index]


def read_labels(kind: str, files: Sequence[Path], column: str) -> list[str]:
    """A column of local tables (`json`, `parquet`, `arrow`), as text: numbers become their digits.

    Raises DataError for a missing column, or a row whose label is no text, whole number or truth value.
    """
    if kind == "json":
        values = list(read_json_values([str(file) for file in files], column))
    else:
        from hnet.data.table import read_column

        values = read_column(kind, files, column)
    for row, value in enumerate(values, start=1):
        if not isinstance(value, (str, int)):
            raise DataError(
                f"{files[0]}: label {value!r} of row {row} in column {column!r} is neither text nor a whole number; "
                "remove the row, or choose another label_column"
            )
    return [str(value) for value in values]


def label_of(document: Document) -> str:
    """Raises DataError if the document's source has no labels."""
    find: Any = getattr(document.source, "label", None)
    if find is None:
        raise DataError(
            f"{document.source.name} has no labels, and the model is to learn them; name its label_column "
            "(local .jsonl, .json, .parquet and .arrow files)"
        )
    return str(find(document.index))


class DocumentLabels:
    """The label of each document, which is read up to the end of its first window."""

    def __init__(self, layout: Layout, labels: Sequence[str]) -> None:
        self.layout = layout
        self.identity: dict[str, object] = {}
        self._number = {label: number for number, label in enumerate(labels)}

    def batch(self, windows: Sequence[Window], number: int) -> Batch:
        pieces = [[piece for piece in window if piece.start == 0] for window in windows]
        rows = [[len(own), sum(piece.units.text_bytes(0, piece.stop) for piece in own)] for own in pieces]
        begun = [piece for own in pieces for piece in own]
        if not begun:
            return self.empty(_first_unit(windows[0][0]))
        labels = [self._label(piece.units.document) for piece in begun]
        return _batch([lay_out_piece(piece, self.layout) for piece in begun], labels, rows)

    def empty(self, unit: int) -> Batch:
        laid_out = self.layout.lay_out(np.array([unit], dtype=np.int64))
        return _batch([laid_out], [IGNORE], [])

    def _label(self, document: Document) -> int:
        label = label_of(document)
        if label not in self._number:
            raise DataError(
                f"{document.source.name}: document {document.index} has the label {label!r}, and "
                f"model.objective.labels has {', '.join(self._number)}; add it there, or remove the document"
            )
        return self._number[label]


def _first_unit(piece: Piece) -> int:
    unit = np.empty(1, dtype=np.int64)
    piece.units.fill(unit, piece.start, piece.start + 1)
    return int(unit[0])


def _batch(laid_out: list[LaidOut], labels: list[int], windows: list[list[int]]) -> Batch:
    marks = [piece.marks for piece in laid_out if piece.marks is not None]
    return Batch(
        torch.from_numpy(np.concatenate([piece.ids for piece in laid_out])),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor([0, *np.cumsum([len(piece.ids) for piece in laid_out])], dtype=torch.int32),
        sum(label != IGNORE for label in labels),
        sum(num_bytes for _, num_bytes in windows),
        torch.tensor(windows, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.concatenate(marks)) if marks else None,
    )
