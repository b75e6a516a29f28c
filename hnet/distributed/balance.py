"""`WindowBalance`: the windows of a step are dealt out anew, so that ranks do equal work.

Each rank guesses what its windows cost from their bytes and from the chunks that earlier steps made; all gather the
guesses, find the same assignment, and send each other the windows, which are small: bytes, not activations. The step
has the same windows as before, so its loss is the same but for rounding where it does not depend on which windows share
a micro-batch: with `ratio_loss_scope: global_batch`, and without a bound on chunks.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet.data.batch import IGNORE, Batch
from hnet.distributed.assignment import Sync, assign, plain_order
from hnet.distributed.chunk_predictor import ChunkPredictor, byte_features
from hnet.distributed.collectives import all_to_all, gather_rows, sum_over_ranks

Cost = Callable[[Sequence[float], float], float]
"""Work of a window in any unit: units of every stage, and the mean document length over units."""

_COST, _UNITS, _SEQUENCES, _TARGET_BYTES = range(4)
"""Columns of the table of windows that all ranks gather."""


class WindowBalance:
    """Every rank must call the same methods in the same order. The windows of a step must divide over the ranks."""

    def __init__(
        self, cost: Cost, num_stages: int, *, rank: int, world_size: int, sync: Sync, device: torch.device
    ) -> None:
        """`num_stages` of the model, the innermost included; `device`: where collectives work, that of the process
        group's backend."""
        self._cost, self._rank, self._world_size = cost, rank, world_size
        self._sync: Sync = sync
        self._device = device
        self._predictor = ChunkPredictor(num_stages - 1)

    def deal(self, batches: Sequence[Batch]) -> list[Batch]:
        """This rank's micro-batches of a step as the stream gave them -> as they are dealt out.

        Equally many windows in every micro-batch of every rank, before and after.
        """
        own = [window for batch in batches for window in split_windows(batch)]
        num_micro_batches = len(batches)
        rows = np.stack([self._describe(window) for window in own])
        table = gather_rows(torch.from_numpy(rows).to(self._device)).cpu().numpy()
        # Rank, micro-batch, window -> the numbering of `assign`: micro-batches outermost.
        per_rank = table.reshape(self._world_size, num_micro_batches, -1, rows.shape[1])
        table = per_rank.transpose(1, 0, 2, 3).reshape(-1, rows.shape[1])
        plain = plain_order(len(table), self._world_size, num_micro_batches)
        dealt = assign(table[:, _COST], self._world_size, num_micro_batches, sync=self._sync)
        if np.array_equal(dealt, plain):
            return list(batches)
        received = self._exchange(own, table, plain, dealt)
        return [join_windows([received[index] for index in cell]) for cell in dealt[self._rank].tolist()]

    def learn(self, batches: Sequence[Batch], units: Tensor) -> None:
        """From the micro-batches of a step and the units (J, S + 1) that each had at every stage, of all ranks."""
        features = np.stack([byte_features(batch.input_ids.numpy()) for batch in batches])
        statistics = self._predictor.statistics(features, units[:, 1:].double().cpu().numpy())
        total = sum_over_ranks(torch.from_numpy(np.concatenate(statistics, axis=1)).to(self._device)).cpu().numpy()
        split = statistics[0].shape[1]
        self._predictor.learn(total[:, :split], total[:, split:])

    def state_dict(self) -> dict[str, NDArray[np.float64]]:
        """What was learnt, the same on every rank."""
        return self._predictor.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[np.float64]]) -> None:
        """Continue with what was learnt. Raises CheckpointError if it is another model's."""
        self._predictor.load_state_dict(state)

    def _describe(self, window: Batch) -> NDArray[np.float64]:
        """A row of the table."""
        total = window.input_ids.numel()
        lengths = window.cu_seqlens.diff().double()
        inner = self._predictor.predict(byte_features(window.input_ids.numpy())[None])[0]
        if window.marks is not None:
            inner[0] = int(window.marks.count_nonzero()) + len(lengths)
        cost = self._cost([total, *inner.tolist()], float(lengths.square().sum()) / total)
        return np.array([cost, total, len(lengths), window.target_bytes], dtype=np.float64)

    def _exchange(
        self, own: Sequence[Batch], table: NDArray[np.float64], plain: NDArray[np.int64], dealt: NDArray[np.int64]
    ) -> dict[int, Batch]:
        """Windows by their index in `table`: those that `dealt` gives this rank."""
        source, target = _rank_of(plain), _rank_of(dealt)
        indices = dict(zip(plain[self._rank].flatten().tolist(), own, strict=True))
        has_marks = own[0].marks is not None
        sizes = ((2 + has_marks) * table[:, _UNITS] + table[:, _SEQUENCES]).astype(np.int64)
        leaving = _by(target, np.flatnonzero(source == self._rank))
        coming = _by(source, np.flatnonzero(target == self._rank))
        payload = torch.cat([_to_numbers(indices[index]) for index in leaving.tolist()])
        send, receive = (
            np.bincount(rank[order], weights=sizes[order], minlength=self._world_size).astype(np.int64).tolist()
            for rank, order in ((target, leaving), (source, coming))
        )
        numbers = all_to_all(payload.to(self._device), send, receive).cpu()
        pieces = zip(coming.tolist(), numbers.split(sizes[coming].tolist()), strict=True)
        return {index: _from_numbers(piece, table[index], has_marks) for index, piece in pieces}


def split_windows(batch: Batch) -> list[Batch]:
    """The windows of a micro-batch, a batch each."""
    windows, first = [], 0
    for num_sequences, target_bytes in batch.windows.tolist():
        bounds = batch.cu_seqlens[first : first + num_sequences + 1]
        begin, end = int(bounds[0]), int(bounds[-1])
        ids, labels = batch.input_ids[begin:end], batch.labels[begin:end]
        marks = None if batch.marks is None else batch.marks[begin:end]
        row = torch.tensor([[num_sequences, target_bytes]])
        windows.append(Batch(ids, labels, bounds - begin, int((labels != IGNORE).sum()), target_bytes, row, marks))
        first += num_sequences
    return windows


def join_windows(windows: Sequence[Batch]) -> Batch:
    """The micro-batch of these windows."""
    lengths = torch.cat([window.cu_seqlens.diff() for window in windows])
    marks = [window.marks for window in windows if window.marks is not None]
    return Batch(
        torch.cat([window.input_ids for window in windows]),
        torch.cat([window.labels for window in windows]),
        torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(),
        sum(window.num_targets for window in windows),
        sum(window.target_bytes for window in windows),
        torch.cat([window.windows for window in windows]),
        torch.cat(marks) if marks else None,
    )


def _rank_of(assignment: NDArray[np.int64]) -> NDArray[np.int64]:
    """(W,) the rank that has each window."""
    ranks = np.empty(assignment.size, dtype=np.int64)
    ranks[assignment.reshape(len(assignment), -1)] = np.arange(len(assignment))[:, None]
    return ranks


def _by(ranks: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rising `indices` sorted by their rank: the order in which an exchange lays them out."""
    return indices[np.argsort(ranks[indices], kind="stable")]


def _to_numbers(window: Batch) -> Tensor:
    """(2 or 3 * units + sequences,) int32: lengths, ids, labels, and marks if there are any."""
    of_units = [window.input_ids, window.labels] + ([] if window.marks is None else [window.marks])
    return torch.cat([window.cu_seqlens.diff(), *of_units]).int()


def _from_numbers(numbers: Tensor, row: NDArray[np.float64], has_marks: bool) -> Batch:
    units, num_sequences, target_bytes = (int(row[column]) for column in (_UNITS, _SEQUENCES, _TARGET_BYTES))
    lengths, ids, labels, *marks = numbers.split([num_sequences, *[units] * (2 + has_marks)])
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    windows = torch.tensor([[num_sequences, target_bytes]])
    num_targets = int((labels != IGNORE).sum())
    own_marks = marks[0].to(torch.uint8) if has_marks else None
    return Batch(ids.long(), labels.long(), cu_seqlens, num_targets, target_bytes, windows, own_marks)
