"""Helpers for packed batches: B documents laid end to end, described by `cu_seqlens` (B+1,)."""

import torch
from torch import Tensor


def segment_ids(cu_seqlens: Tensor, num_units: int) -> Tensor:
    """Document index (T,) int64 of every packed unit, without a host synchronisation."""
    lengths = cu_seqlens.diff()
    documents = torch.arange(lengths.numel(), device=cu_seqlens.device)
    return torch.repeat_interleave(documents, lengths, output_size=num_units)


def first_positions(cu_seqlens: Tensor) -> Tensor:
    """Packed position (B,) int64 of the first unit of every document."""
    return cu_seqlens[:-1].long()


def check_cu_seqlens(cu_seqlens: Tensor, num_units: int) -> None:
    """Raise ValueError unless `cu_seqlens` rises strictly from 0 to `num_units`.

    The values are looked at on a CPU only: on an accelerator that would stop the stream.
    """
    if cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens must have shape (B+1,) with B >= 1, got {tuple(cu_seqlens.shape)}")
    if cu_seqlens.device.type != "cpu":
        return
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0 or bounds[-1] != num_units:
        raise ValueError(f"cu_seqlens must run from 0 to {num_units}, got {bounds[0]} to {bounds[-1]}")
    if any(start >= stop for start, stop in zip(bounds, bounds[1:], strict=False)):
        raise ValueError("cu_seqlens must rise strictly: a packed batch holds no empty document")


def widen(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the dtype that sums are kept in: float32 for half precision, else their own."""
    return [t.float() if t.dtype in (torch.bfloat16, torch.float16) else t for t in tensors]


def row_blocks(num_rows: int, width: int) -> list[tuple[int, int]]:
    """Ranges of rows whose passes stay in cache: about 2^18 elements, 1 MiB of float32, each."""
    step = max(16, 2**18 // width)
    return [(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
