"""Helpers for packed batches: B documents laid end to end, described by `cu_seqlens` (B+1,).

Chunks of units are described alike, by `chunk_offsets` (M+1,).
"""

import torch
from torch import Tensor


def segment_ids(cu_seqlens: Tensor, num_units: int) -> Tensor:
    """Document (or, for chunk offsets, chunk) index (T,) int64 of every packed unit, without a host synchronisation."""
    lengths = cu_seqlens.diff()
    documents = torch.arange(lengths.numel(), device=cu_seqlens.device)
    return torch.repeat_interleave(documents, lengths, output_size=num_units)


def first_positions(cu_seqlens: Tensor) -> Tensor:
    """Packed position (B,) int64 of the first unit of every document."""
    return cu_seqlens[:-1].long()


def check_cu_seqlens(cu_seqlens: Tensor, num_units: int) -> None:
    """Raise ValueError unless `cu_seqlens` rises strictly from 0 to `num_units`; see `check_bounds`."""
    check_bounds(cu_seqlens, num_units, "cu_seqlens", "B", "a packed batch holds no empty document")


def check_chunk_offsets(chunk_offsets: Tensor, num_units: int, *, whole: bool = True) -> None:
    """Raise ValueError unless `chunk_offsets` rises strictly from 0 to `num_units`; see `check_bounds`."""
    check_bounds(chunk_offsets, num_units, "chunk_offsets", "M", "no chunk is empty", whole=whole)


def check_bounds(bounds: Tensor, num_units: int, name: str, count: str, law: str, *, whole: bool = True) -> None:
    """Raise ValueError unless `bounds` rises strictly from 0 to `num_units`, or, if not `whole`, within that.

    The values are looked at on a CPU only: on an accelerator that would stop the stream.
    """
    if bounds.dim() != 1 or bounds.numel() < 2:
        raise ValueError(f"{name} must have shape ({count}+1,) with {count} >= 1, got {tuple(bounds.shape)}")
    if bounds.device.type != "cpu":
        return
    first, last = int(bounds[0]), int(bounds[-1])
    if whole and (first != 0 or last != num_units):
        raise ValueError(f"{name} must run from 0 to {num_units}, got {first} to {last}")
    if first < 0 or last > num_units:
        raise ValueError(f"{name} must lie within 0 to {num_units}, got {first} to {last}")
    if bool((bounds[1:] <= bounds[:-1]).any()):
        raise ValueError(f"{name} must rise strictly: {law}")


def widen(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype that sums are kept in: float32 for half precision, else their own."""
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def row_blocks(num_rows: int, width: int) -> list[tuple[int, int]]:
    """Ranges of rows whose passes stay in cache: about 2^18 elements, 1 MiB of float32; an empty one of no rows."""
    step = max(16, 2**18 // width)
    return [(start, min(start + step, num_rows)) for start in range(0, max(1, num_rows), step)]
