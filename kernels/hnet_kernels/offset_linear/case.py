"""AU-Net's 16 matrices, at any size."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.offset_linear.op import offset_linear
from hnet_kernels.packed import segment_ids

NUM_OFFSETS = 16


def inputs(sizes: Sizes) -> dict[str, Any]:
    weight = sizes.randn(NUM_OFFSETS, sizes.width, sizes.width) / sizes.width**0.5
    return {
        "z": sizes.randn(sizes.num_chunks, sizes.width).requires_grad_(),
        "weight": weight.detach().requires_grad_(),
        "chunk_offsets": sizes.chunk_offsets(),
        "num_units": sizes.num_units,
    }


def eager(z: Tensor, weight: Tensor, chunk_offsets: Tensor, num_units: int) -> Tensor:
    """As AU-Net: repeat the chunks, then gather, multiply and scatter the units of one offset after the other."""
    chunk = segment_ids(chunk_offsets, num_units)
    number = (torch.arange(num_units, device=z.device) - chunk_offsets.long()[chunk]).clamp(max=NUM_OFFSETS - 1)
    repeated = z[chunk]
    out = z.new_zeros(num_units, weight.shape[1])
    for k in range(NUM_OFFSETS):
        units = (number == k).nonzero().squeeze(1)
        out = out.index_copy(0, units, repeated[units] @ weight[k].T)
    return out


def floor(sizes: Sizes) -> tuple[int, int]:
    """Forward: chunks and weights read, units written. Backward: these read, the gradients of the first two written.

    Bytes are not what bounds this op: its products take 2 T Din Dout operations forward and twice that backward.
    """
    weights = NUM_OFFSETS * sizes.width * sizes.row_bytes
    chunks, units = sizes.num_chunks * sizes.row_bytes, sizes.num_units * sizes.row_bytes
    offsets = 4 * (sizes.num_chunks + 1)
    return chunks + weights + units + offsets, 2 * (chunks + weights) + units + offsets


CASES = (Case("offset_linear", inputs, offset_linear, floor, {"eager": eager}),)
