"""Windows into a `Batch`: the only place that copies text."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch

from hnet.data.batch import IGNORE, Batch
from hnet.data.pack import Piece, Window
from hnet.segmentation.layout import PLAIN, LaidOut, Layout


def collate(windows: Iterable[Window], layout: Layout = PLAIN) -> Batch:
    """One packed batch, a sequence per piece, each laid out for the model on its own.

    The label of a unit is the next unit of its document; also at a cut, where that unit opens the next window. The last
    unit of a document predicts nothing.
    """
    windows = list(windows)
    pieces = [piece for window in windows for piece in window]
    laid_out = [lay_out_piece(piece, layout) for piece in pieces]
    target_bytes = [_target_bytes(piece) for piece in pieces]
    of_pieces = iter(target_bytes)
    of_windows = [[len(window), sum(islice(of_pieces, len(window)))] for window in windows]
    return _batch(laid_out, sum(target_bytes), of_windows)


def empty_batch(unit: int, layout: Layout = PLAIN) -> Batch:
    """One sequence of one unit that predicts nothing: for a rank that must take part but has no data."""
    return _batch([layout.lay_out(np.array([unit], dtype=np.int64), np.zeros(0, dtype=np.int64))], 0, [])


def lay_out_piece(piece: Piece, layout: Layout) -> LaidOut:
    """A piece as the model reads it; what follows it in its document decides about its last label."""
    end = min(piece.stop + layout.reach, piece.units.num_units)
    units = np.empty(end - piece.start, dtype=np.int64)
    piece.units.fill(units, piece.start, end)
    length = piece.stop - piece.start
    return layout.lay_out(units[:length], units[length:])


def _target_bytes(piece: Piece) -> int:
    """Bytes of text among the units that the piece predicts: those after its first, and the one after it."""
    return piece.units.text_bytes(piece.start + 1, min(piece.stop + 1, piece.units.num_units))


def _batch(laid_out: list[LaidOut], target_bytes: int, windows: list[list[int]]) -> Batch:
    cu_seqlens = np.zeros(len(laid_out) + 1, dtype=np.int32)
    np.cumsum([len(piece.ids) for piece in laid_out], out=cu_seqlens[1:])
    labels = np.concatenate([piece.labels for piece in laid_out])
    marks = [piece.marks for piece in laid_out if piece.marks is not None]
    return Batch(
        torch.from_numpy(np.concatenate([piece.ids for piece in laid_out])),
        torch.from_numpy(labels),
        torch.from_numpy(cu_seqlens),
        int((labels != IGNORE).sum()),
        target_bytes,
        torch.tensor(windows, dtype=torch.int64).reshape(-1, 2),
        torch.from_numpy(np.concatenate(marks)) if marks else None,
    )
