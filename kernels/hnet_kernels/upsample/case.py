"""Sizes, floor and rivals of `upsample`."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.upsample.op import upsample


def inputs(sizes: Sizes) -> dict[str, Any]:
    generator = sizes.generator()
    zbar, residual = (
        torch.randn(rows, sizes.width, generator=generator, device=sizes.device, dtype=sizes.dtype).requires_grad_()
        for rows in (sizes.num_chunks, sizes.num_units)
    )
    confidence = torch.rand(sizes.num_units, generator=generator, device=sizes.device).requires_grad_()
    return {
        "zbar": zbar,
        "chunk_index": sizes.chunk_index(),
        "confidence": confidence,
        "residual": residual,
        "chunk_offsets": sizes.chunk_offsets(),
    }


def eager(zbar: Tensor, chunk_index: Tensor, confidence: Tensor, residual: Tensor, chunk_offsets: Tensor) -> Tensor:
    """As the released models compute it, in float32."""
    one = confidence + (1 - confidence).detach()
    return (zbar.float()[chunk_index] * one[:, None] + residual.float()).to(residual.dtype)


def floor(sizes: Sizes) -> tuple[int, int]:
    """zbar and residual in, units out; going back the gradient and zbar in, dzbar out. Scalars are not counted."""
    units, chunks = sizes.num_units * sizes.row_bytes, sizes.num_chunks * sizes.row_bytes
    return 2 * units + chunks, units + 2 * chunks


CASES = (Case("upsample", inputs, upsample, floor, {"eager": eager}),)
