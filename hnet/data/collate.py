"""Windows into a `Batch`: the only place that copies text."""

from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch

from hnet.data.batch import IGNORE, Batch
from hnet.data.pack import Piece, Window


def collate(windows: Iterable[Window]) -> Batch:
    """One packed batch, a sequence per piece.

    The label of a unit is the next unit of its document; also at a cut, where that unit opens the next window. The last
    unit of a document predicts nothing.
    """
    windows = list(windows)
    pieces = [piece for window in windows for piece in window]
    cu_seqlens = np.zeros(len(pieces) + 1, dtype=np.int32)
    np.cumsum([piece.stop - piece.start for piece in pieces], out=cu_seqlens[1:])
    input_ids = np.empty(int(cu_seqlens[-1]), dtype=np.int64)
    labels = np.empty_like(input_ids)
    num_targets, target_bytes = 0, []
    for piece, begin, end in zip(pieces, cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist(), strict=True):
        piece.units.fill(input_ids[begin:end], piece.start, piece.stop)
        labels[begin : end - 1] = input_ids[begin + 1 : end]
        last_target = _last_target(piece)
        if last_target == piece.stop:
            piece.units.fill(labels[end - 1 : end], piece.stop, piece.stop + 1)
        else:
            labels[end - 1] = IGNORE
        num_targets += last_target - piece.start
        target_bytes.append(piece.units.text_bytes(piece.start + 1, last_target + 1))
    of_pieces = iter(target_bytes)
    of_windows = [[len(window), sum(islice(of_pieces, len(window)))] for window in windows]
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(labels),
        torch.from_numpy(cu_seqlens),
        num_targets,
        sum(target_bytes),
        torch.tensor(of_windows, dtype=torch.int64),
    )


def empty_batch(unit: int) -> Batch:
    """One sequence of one unit that predicts nothing: for a rank that must take part but has no data."""
    return Batch(
        torch.tensor([unit], dtype=torch.int64),
        torch.tensor([IGNORE], dtype=torch.int64),
        torch.tensor([0, 1], dtype=torch.int32),
        num_targets=0,
        target_bytes=0,
        windows=torch.zeros(0, 2, dtype=torch.int64),
    )


def _last_target(piece: Piece) -> int:
    return min(piece.stop, piece.units.num_units - 1)
