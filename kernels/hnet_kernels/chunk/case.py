"""Sizes, floors and rivals of `chunk` and `chunk_with_residual`."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.chunk.op import chunk, chunk_with_residual
from hnet_kernels.residual.op import Precision
from hnet_kernels.residual.reference import result_dtype


def inputs(sizes: Sizes) -> dict[str, Any]:
    x = sizes.randn(sizes.num_units, sizes.width).requires_grad_()
    return {"x": x, "boundary_mask": sizes.boundary_mask(), "cu_seqlens": sizes.cu_seqlens()}


def run(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    return chunk(x, boundary_mask, cu_seqlens).values


def eager(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    return x[boundary_mask]


def floor(sizes: Sizes) -> tuple[int, int]:
    """M rows are read and written; going back M are read and T written."""
    return 2 * sizes.num_chunks * sizes.row_bytes, (sizes.num_chunks + sizes.num_units) * sizes.row_bytes


def inputs_with_residual(sizes: Sizes) -> dict[str, Any]:
    scale = sizes.width**-0.5
    weight = torch.randn(sizes.width, sizes.width, generator=sizes.generator(), device=sizes.device) * scale
    bias = torch.zeros(sizes.width, device=sizes.device)
    return inputs(sizes) | {"weight": weight.requires_grad_(), "bias": bias.requires_grad_()}


def run_with_residual(
    x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    precision: Precision = "bf16" if x.dtype == torch.bfloat16 else "fp32"
    chunks, residual = chunk_with_residual(x, boundary_mask, cu_seqlens, weight, bias, precision=precision)
    return chunks.values, residual


def eager_with_residual(
    x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    return x[boundary_mask], torch.nn.functional.linear(x, weight.to(x.dtype), bias.to(x.dtype))


def upstream(
    x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, weight: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """As the released models compute it: the projection in float32."""
    return x[boundary_mask], torch.nn.functional.linear(x.float(), weight, bias).to(result_dtype(x, "bf16"))


def floor_with_residual(sizes: Sizes) -> tuple[int, int]:
    """The selection's part alone, for the matrix products are the library's: M rows are read and written; going back
    M are read and added to as many rows of the projection's gradient."""
    return 2 * sizes.num_chunks * sizes.row_bytes, 3 * sizes.num_chunks * sizes.row_bytes


CASES = (
    Case("chunk", inputs, run, floor, {"eager": eager}),
    Case(
        "chunk_with_residual",
        inputs_with_residual,
        run_with_residual,
        floor_with_residual,
        {"eager": eager_with_residual, "upstream": upstream},
    ),
)
