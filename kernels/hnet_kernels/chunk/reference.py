"""Selection of the boundary units, in plain PyTorch."""

import torch
from torch import Tensor


def chunk(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    counts = boundary_mask.cumsum(0)
    chunks = x.index_select(0, boundary_mask.nonzero().squeeze(1))
    ends = counts.index_select(0, cu_seqlens[1:].long() - 1)
    chunk_cu_seqlens = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return chunks, chunk_cu_seqlens, counts - 1
