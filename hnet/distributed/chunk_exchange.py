"""`ChunkExchange`: neighbouring ranks level the chunks of the main stage among themselves, by their true number.

Dealing out windows beforehand goes by a guess; here the routers have spoken. Before the main stage runs, the documents
of a group of ranks, in the order of the ranks, are cut into as many runs of about equal work, and each rank takes one;
after it the results go back. Documents stay whole, so attention and scan states need nothing from other ranks, and
gradients are exact since those of all ranks are summed in any case. It costs a message each way,
there and back, and two waits of the host for counts and lengths.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hnet.distributed.sequence_parallel import SequenceGroup

Cost = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Work of documents of (B,) units each, in any unit."""


class ChunkExchange:
    """For the innermost stack of a model. Every rank of the group must run it at the same time."""

    def __init__(self, group: SequenceGroup, cost: Cost) -> None:
        self._group, self._cost = group, cost
        self._back: tuple[list[int], list[int]] | None = None

    def attach(self, stack: nn.Module) -> None:
        """Exchange around every call of `stack` that fills no caches."""
        stack.register_forward_pre_hook(self._before)
        stack.register_forward_hook(self._after)

    def _before(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, None] | None:
        pack, caches = arguments
        if caches is not None:
            return None
        own = pack.cu_seqlens.diff().long()
        counts = self._group.gather(own.new_tensor([own.numel()]))[:, 0].tolist()
        padded = own.new_zeros(max(counts)).index_copy(0, torch.arange(own.numel(), device=own.device), own)
        everyone = self._group.gather(padded)
        lengths = np.concatenate([row[:count].numpy() for row, count in zip(everyone, counts, strict=True)])
        borders = level_runs(self._cost(lengths), self._group.size)
        held = [0, *accumulate(counts)]
        rank = self._group.rank
        send = [_overlap(lengths, held, rank, borders, other) for other in range(self._group.size)]
        receive = [_overlap(lengths, held, other, borders, rank) for other in range(self._group.size)]
        taken = torch.from_numpy(lengths[borders[rank] : borders[rank + 1]]).to(pack.cu_seqlens)
        cu_seqlens = nn.functional.pad(taken.cumsum(0, dtype=torch.int32), (1, 0))
        self._back = receive, send
        values = self._group.exchange(pack.values, send, receive)
        return replace(pack, values=values, cu_seqlens=cu_seqlens, max_seqlen=int(lengths.max())), None

    def _after(self, _: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if self._back is None:
            return None
        send, receive = self._back
        self._back = None
        return self._group.exchange(output, send, receive)


def level_runs(costs: NDArray[np.float64], num_runs: int) -> list[int]:
    """Where `num_runs` runs of documents begin, and the end: each has a document at least, and about the same cost.

    Args:
        costs: (B,) of the documents in their order; at least `num_runs` of them.
    """
    ends = np.concatenate([[0.0], np.cumsum(costs)])
    wanted = ends[-1] * np.arange(1, num_runs) / num_runs
    after = np.searchsorted(ends, wanted)
    nearest = np.where(ends[after] - wanted < wanted - ends[after - 1], after, after - 1)
    borders = [0]
    for run, border in enumerate(nearest.tolist(), start=1):
        borders.append(min(max(border, borders[-1] + 1), len(costs) - (num_runs - run)))
    return [*borders, len(costs)]


def _overlap(lengths: NDArray[np.int64], held: list[int], holder: int, borders: list[int], taker: int) -> int:
    """Units of the documents that `holder` has and `taker` takes."""
    (first, last), (begin, end) = list(pairwise(held))[holder], list(pairwise(borders))[taker]
    return int(lengths[max(first, begin) : max(min(last, end), first, begin)].sum())
