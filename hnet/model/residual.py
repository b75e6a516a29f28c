"""The path of the units around the chunks."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.packed import Packed
from hnet_kernels import Chunks, chunk, chunk_with_residual, residual_linear
from hnet_kernels.residual.op import Precision


class Identity(nn.Module):
    """The units as they are."""

    def with_chunks(self, x: Packed, boundaries: Boundaries) -> tuple[Chunks, Tensor]:
        """The chunks of x, and the residual (T, D)."""
        return chunk(x.values, boundaries.mask, x.cu_seqlens, max_chunks=boundaries.num_chunks), x.values

    def around(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        return x


class Residual(nn.Linear):
    """H-Net's (arXiv 2507.07955, section 2.2.3): a linear layer with float32 parameters and operands of a precision of
    choice; None follows the input.

    Two ways to use it, both through `forward`, since ZeRO-3 gathers parameters around that.
    """

    def __init__(self, dim: int, precision: Precision | None, *, device: torch.device | str | None = None) -> None:
        super().__init__(dim, dim, device=device, dtype=torch.float32)
        self.precision = precision

    def forward(  # type: ignore[override]  # a second way to call it
        self, x: Tensor, select: tuple[Tensor, Tensor] | None = None, num_chunks: int | None = None
    ) -> Tensor | tuple[Chunks, Tensor]:
        """(T, D) -> (T, D); with `select` = (mask (T,), cu_seqlens) also the chunks of x, `num_chunks` if known."""
        precision = self.precision or ("bf16" if x.dtype == torch.bfloat16 else "fp32")
        if select is None:
            return residual_linear(x, self.weight, self.bias, precision=precision)
        return chunk_with_residual(x, *select, self.weight, self.bias, precision=precision, max_chunks=num_chunks)

    def with_chunks(self, x: Packed, boundaries: Boundaries) -> tuple[Chunks, Tensor]:
        """The chunks of x, and the residual (T, D)."""
        chunks: tuple[Chunks, Tensor] = self(x.values, (boundaries.mask, x.cu_seqlens), boundaries.num_chunks)
        return chunks

    def around(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, D)."""
        out = self(x)
        assert isinstance(out, Tensor)
        return out


Skip = Identity | Residual
