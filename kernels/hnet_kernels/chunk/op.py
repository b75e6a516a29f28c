"""Selection of the boundary units: the chunks that the next stage works on."""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.chunk import reference
from hnet_kernels.packed import check_cu_seqlens


@torch.library.custom_op("hnet::chunk", mutates_args=())
def select(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, x.shape[0])
    return reference.chunk_forward(x, boundary_mask, cu_seqlens)


@select.register_fake
def _(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_chunks = torch.library.get_ctx().new_dynamic_size()
    index = torch.empty(x.shape[0], dtype=torch.int64, device=x.device)
    positions = torch.empty(num_chunks, dtype=torch.int64, device=x.device)
    return x.new_empty(num_chunks, x.shape[1]), torch.empty_like(cu_seqlens), index, positions


@torch.library.custom_op("hnet::chunk_backward", mutates_args=())
def select_backward(grad: Tensor, positions: Tensor, num_units: int) -> Tensor:
    return reference.chunk_backward(grad, positions, num_units)


@select_backward.register_fake
def _(grad: Tensor, positions: Tensor, num_units: int) -> Tensor:
    return grad.new_empty(num_units, grad.shape[1])


def save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(output[3])
    ctx.num_units = inputs[0].shape[0]
    ctx.mark_non_differentiable(*output[1:])


def differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return select_backward(grad, *ctx.saved_tensors, ctx.num_units), None, None


select.register_autograd(differentiate, setup_context=save)


def chunk(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The boundary units alone, packed (H-Net, arXiv 2507.07955, section 2.2: direct selection).

    Args:
        x: (T,D).
        boundary_mask: (T,) bool, true at the first unit of every document.
        cu_seqlens: (B+1,) int32.

    Returns:
        chunks (M,D), chunk_cu_seqlens (B+1,) int32, and chunk_index (T,) int64: the chunk every unit belongs to.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T.
    """
    chunks, chunk_cu_seqlens, chunk_index, _ = select(x, boundary_mask, cu_seqlens)
    return chunks, chunk_cu_seqlens, chunk_index
