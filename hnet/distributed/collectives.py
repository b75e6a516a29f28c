"""Collectives that do nothing in a single process, so that callers need not ask how many there are."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def _is_alone() -> bool:
    return not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add `tensor` over all ranks, in place, and return it. Every rank must call with the same shape and dtype."""
    if not _is_alone():
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(tensor: Tensor) -> Tensor:
    """Element-wise maximum over all ranks, in place; returns `tensor`."""
    if not _is_alone():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def gather_objects(value: Any) -> list[Any]:
    """The values of all ranks, in rank order, on every rank. For small Python objects of our own making."""
    if _is_alone():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_on_main(value: Any) -> list[Any]:
    """The values of all ranks, in rank order, on rank 0; nothing elsewhere."""
    if _is_alone():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values)
    return values or []


def gather_rows(tensor: Tensor) -> Tensor:
    """(n, ...) of every rank, of the same shape everywhere -> (world_size, n, ...) in rank order."""
    if _is_alone():
        return tensor[None]
    gathered = list(tensor.new_empty(dist.get_world_size(), *tensor.shape))
    dist.all_gather(gathered, tensor.contiguous())
    return torch.stack(gathered)


def all_to_all(tensor: Tensor, send_sizes: list[int], receive_sizes: list[int]) -> Tensor:
    """Send each rank its piece of `tensor` (sum of send_sizes,), in rank order; returns what came, in rank order."""
    if _is_alone():
        return tensor
    received = tensor.new_empty(sum(receive_sizes))
    dist.all_to_all_single(received, tensor, receive_sizes, send_sizes)
    return received


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank."""
    if _is_alone():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Wait until every rank is here."""
    if not _is_alone():
        dist.barrier()


def shut_down() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
