"""`Case`: what the benchmark, the byte count and the compile check need to know of an op."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """One pack: T units of width D in B documents, cut into M chunks."""

    num_units: int
    num_chunks: int
    width: int
    num_documents: int = 8
    num_heads: int = 16
    """Divides `width`."""
    dtype: torch.dtype = torch.bfloat16
    device: str = "cpu"
    seed: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of D elements."""
        return self.width * self.dtype.itemsize

    def generator(self) -> torch.Generator:
        """Seeded, on `device`."""
        return torch.Generator(self.device).manual_seed(self.seed)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers of `dtype` on `device`; the same for the same shape and seed."""
        return torch.randn(*shape, generator=self.generator(), device=self.device, dtype=self.dtype)

    def cu_seqlens(self) -> Tensor:
        """(B+1,) int32: documents of nearly equal length."""
        ends = torch.arange(self.num_documents + 1) * self.num_units // self.num_documents
        return ends.int().to(self.device)

    def boundary_mask(self) -> Tensor:
        """(T,) bool with exactly M boundaries at random units, one of them at every document's first unit."""
        starts = self.cu_seqlens()[:-1].long().cpu()
        score = torch.rand(self.num_units, generator=torch.Generator().manual_seed(self.seed))
        score[starts] = 2.0
        mask = torch.zeros(self.num_units, dtype=torch.bool)
        mask[score.topk(self.num_chunks).indices] = True
        return mask.to(self.device)

    def chunk_offsets(self) -> Tensor:
        """(M+1,) int32: chunk j spans units chunk_offsets[j] to chunk_offsets[j+1] - 1."""
        positions = self.boundary_mask().nonzero().squeeze(1)
        return torch.cat([positions, positions.new_tensor([self.num_units])]).int()

    def chunk_index(self) -> Tensor:
        """(T,) int64: the chunk of every unit."""
        return self.boundary_mask().cumsum(0) - 1

    def chunk_cu_seqlens(self) -> Tensor:
        """(B+1,) int32: documents over chunks."""
        counts = torch.cat([torch.zeros(1, dtype=torch.long, device=self.device), self.boundary_mask().cumsum(0)])
        return counts[self.cu_seqlens().long()].int()


@dataclass(frozen=True)
class Case:
    """One op at any size.

    `inputs(sizes)` gives the keyword arguments of `run`; floating-point tensors among them that require a gradient
    are set so by `inputs`. `run(**inputs)` calls the public op and returns its differentiable output or outputs.
    `floor(sizes)` is the least number of bytes that the forward and the backward pass must move: every input read
    once, every output written once. `others` are ways to the same result that it is compared with: `eager`, the
    composition of PyTorch operations, and where there is one `upstream`, as the official code does it.
    """

    name: str
    inputs: Callable[[Sizes], dict[str, Any]]
    run: Callable[..., Tensor | tuple[Tensor, ...]]
    floor: Callable[[Sizes], tuple[int, int]]
    others: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = field(default_factory=dict)
