"""Ranks that share the units of one pack: neighbours in a group of their own, and the messages between them."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class SequenceGroup:
    """`size` neighbouring ranks. The pieces of a pack lie in the order of the ranks."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Differentiable all-to-all: of `rows` (sum(send), ...) the next send[r] go to rank r of the group; the result
        (sum(receive), ...) has what came, by sender. Every rank of the group must call, here and in the backward pass.
        """
        result: Tensor = _Exchange.apply(rows, self._group, list(send), list(receive))
        return result

    def gather(self, counts: Tensor) -> Tensor:
        """(N,) int64 of every rank of the group as (size, N) on the CPU; the host waits for it."""
        everyone = counts.new_empty(self.size, *counts.shape)
        dist.all_gather(list(everyone), counts.contiguous(), group=self._group)
        return everyone.cpu()

    def sum(self, tensor: Tensor) -> Tensor:
        """Add `tensor` over the group, in place, and return it; not differentiable."""
        dist.all_reduce(tensor, group=self._group)
        return tensor


def open_sequence_group(size: int, *, timeout_minutes: float) -> SequenceGroup | None:
    """The group of this rank: ranks k * size to (k + 1) * size - 1; None for a size of 1.

    Every rank must call. Raises ValueError if `size` does not divide the number of ranks.
    """
    if size == 1:
        return None
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    if world_size % size:
        raise ValueError(f"groups of {size} ranks do not divide {world_size} ranks")
    group, _ = dist.new_subgroups(group_size=size, timeout=timedelta(minutes=timeout_minutes))
    return SequenceGroup(group)


class _Exchange(torch.autograd.Function):
    """All-to-all, whose transpose is the all-to-all of the gradients back to where the rows came from."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup, send: list[int], receive: list[int]) -> Tensor:
        ctx.group, ctx.send, ctx.receive = group, send, receive
        return _all_to_all(rows, group, send, receive)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _all_to_all(grad, ctx.group, ctx.receive, ctx.send), None, None, None


def _all_to_all(rows: Tensor, group: dist.ProcessGroup, send: list[int], receive: list[int]) -> Tensor:
    result = rows.new_empty(sum(receive), *rows.shape[1:])
    dist.all_to_all_single(result, rows.contiguous(), receive, send, group=group)
    return result
