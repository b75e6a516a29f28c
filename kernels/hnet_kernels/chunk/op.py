"""Selection of the boundary units: the chunks that the next stage works on."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hnet_kernels.dispatch import implementation
from hnet_kernels.packed import check_cu_seqlens
from hnet_kernels.residual import reference as residual
from hnet_kernels.residual.op import Precision, check_precision

Raw = tuple[Tensor, Tensor, Tensor, Tensor]


class Chunks(NamedTuple):
    """M chunks of T units. With `max_chunks` there are that many rows; those from M on hold zeros."""

    values: Tensor
    """(M,D)."""
    cu_seqlens: Tensor
    """(B+1,) int32, documents over chunks; its last entry is M."""
    chunk_index: Tensor
    """(T,) int64, the chunk of every unit."""
    chunk_offsets: Tensor
    """(M+1,) int32: chunk j is the units chunk_offsets[j] to chunk_offsets[j+1] - 1."""


class PendingCount:
    """The number of chunks on its way to the host: work queued before `wait` hides the time that takes.

    Where it is `known` nothing is copied and nobody waits.
    """

    def __init__(self, chunk_cu_seqlens: Tensor, known: int | None) -> None:
        count = chunk_cu_seqlens[-1:]
        self.known = known
        self.event: torch.cuda.Event | None = None
        if count.is_cuda and known is None:
            self.host = torch.empty(1, dtype=count.dtype, pin_memory=True)
            self.host.copy_(count, non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(count.device))
        else:
            self.host = count

    def wait(self) -> int:
        if self.known is not None:
            return self.known
        if self.event is not None:
            self.event.synchronize()
        return int(self.host)


def gather(x: Tensor, scan: tuple[Tensor, Tensor, Tensor], count: int) -> Raw:
    """The chunks of a finished scan."""
    index, offsets, chunk_cu_seqlens = scan
    offsets = offsets[: count + 1]
    return implementation("chunk", x).chunk_gather(x, offsets[:-1]), chunk_cu_seqlens, index, offsets.clone()


def fake_chunks(x: Tensor, cu_seqlens: Tensor, max_chunks: int | None) -> Raw:
    """Shapes alone; the number of chunks is one of the graph's unknowns unless bounded."""
    num_chunks = torch.library.get_ctx().new_dynamic_size() if max_chunks is None else max_chunks
    index = x.new_empty(x.shape[0], dtype=torch.int64)
    offsets = x.new_empty(num_chunks + 1, dtype=torch.int32)
    return x.new_empty(num_chunks, x.shape[1]), torch.empty_like(cu_seqlens), index, offsets


@torch.library.custom_op("hnet::chunk", mutates_args=())
def select(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, max_chunks: int | None) -> Raw:
    check_cu_seqlens(cu_seqlens, x.shape[0])
    scan = implementation("chunk", x).chunk_scan(boundary_mask, cu_seqlens)
    return gather(x, scan, PendingCount(scan[2], max_chunks).wait())


@select.register_fake
def _(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, max_chunks: int | None) -> Raw:
    return fake_chunks(x, cu_seqlens, max_chunks)


@torch.library.custom_op("hnet::chunk_backward", mutates_args=())
def select_backward(grad: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
    result: Tensor = implementation("chunk", grad).chunk_backward(grad, offsets[:-1], index)
    return result


@select_backward.register_fake
def _(grad: Tensor, index: Tensor, offsets: Tensor) -> Tensor:
    return grad.new_empty(index.shape[0], grad.shape[1])


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])
    ctx.mark_non_differentiable(*output[1:])


def differentiate(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return select_backward(grad, *ctx.saved_tensors), None, None, None


select.register_autograd(differentiate, setup_context=save)


@torch.library.custom_op("hnet::chunk_with_residual", mutates_args=())
def select_and_project(
    x: Tensor,
    boundary_mask: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor,
    precision: str,
    max_chunks: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_cu_seqlens(cu_seqlens, x.shape[0])
    scan = implementation("chunk", x).chunk_scan(boundary_mask, cu_seqlens)
    count = PendingCount(scan[2], max_chunks)
    projected = residual.residual_forward(x, weight, bias, precision)
    return (*gather(x, scan, count.wait()), projected)


@select_and_project.register_fake
def _(
    x: Tensor,
    boundary_mask: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor,
    precision: str,
    max_chunks: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    projected = x.new_empty(x.shape[0], weight.shape[0], dtype=residual.result_dtype(x, precision))
    return (*fake_chunks(x, cu_seqlens, max_chunks), projected)


@torch.library.custom_op("hnet::chunk_with_residual_backward", mutates_args=())
def select_and_project_backward(
    grad: Tensor, grad_residual: Tensor, x: Tensor, weight: Tensor, offsets: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dbias = residual.residual_backward(grad_residual, x, weight, precision)
    return implementation("chunk", grad).chunk_add_(dx, grad, offsets[:-1]), dweight, dbias


@select_and_project_backward.register_fake
def _(
    grad: Tensor, grad_residual: Tensor, x: Tensor, weight: Tensor, offsets: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def save_both(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], inputs[3], output[3])
    ctx.precision = inputs[5]
    ctx.mark_non_differentiable(*output[1:4])


def differentiate_both(ctx: Any, grad: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
    dx, dweight, dbias = select_and_project_backward(grad, grads[-1], *ctx.saved_tensors, ctx.precision)
    return dx, None, None, dweight, dbias, None, None


select_and_project.register_autograd(differentiate_both, setup_context=save_both)


def check_max_chunks(max_chunks: int | None, num_units: int) -> None:
    """Raise ValueError for a number of chunks that T units cannot have."""
    if max_chunks is not None and not 1 <= max_chunks <= num_units:
        raise ValueError(f"max_chunks must be from 1 to the {num_units} units of the pack, got {max_chunks}")


def chunk(x: Tensor, boundary_mask: Tensor, cu_seqlens: Tensor, *, max_chunks: int | None = None) -> Chunks:
    """The boundary units alone, packed (H-Net, arXiv 2507.07955, section 2.2: direct selection).

    On a GPU the host waits for one number, M. With `max_chunks`, which must be at least M, it does not, and all
    shapes are known beforehand (CUDA graphs).

    Args:
        x: (T,D).
        boundary_mask: (T,) bool, true at the first unit of every document.
        cu_seqlens: (B+1,) int32.
        max_chunks: rows of the result; those from M on are zeros, and chunk_offsets[M:] are T. The operations on chunks
            take M rows: give exactly M, or cut off the rest.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T, or max_chunks is not from 1 to T.
    """
    check_max_chunks(max_chunks, x.shape[0])
    return Chunks(*select(x, boundary_mask, cu_seqlens, max_chunks))


def chunk_with_residual(
    x: Tensor,
    boundary_mask: Tensor,
    cu_seqlens: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    precision: Precision = "fp32",
    max_chunks: int | None = None,
) -> tuple[Chunks, Tensor]:
    """`chunk` and `residual_linear` of the same x (T,D), with their arguments, in one node: (chunks, residual (T,N)).

    The projection runs while the number of chunks is on its way to the host, and going back the gradient of the
    chunks is added in place to the input gradient of the projection.

    Raises:
        ValueError: cu_seqlens does not rise strictly from 0 to T, an unknown precision, or max_chunks not from 1 to T.
    """
    check_precision(precision)
    check_max_chunks(max_chunks, x.shape[0])
    *chunks, projected = select_and_project(x, boundary_mask, cu_seqlens, weight, bias, precision, max_chunks)
    return Chunks(*chunks), projected
