"""Sizes, floor and rivals of `ema`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from hnet_kernels.case import Case, Sizes
from hnet_kernels.ema.op import ema
from hnet_kernels.ema.reference import MIN_PROB
from hnet_kernels.packed import first_positions, segment_ids


def inputs(sizes: Sizes, lowest: float) -> dict[str, Any]:
    cu_seqlens = sizes.chunk_cu_seqlens()
    prob = torch.rand(sizes.num_chunks, generator=sizes.generator(), device=sizes.device)
    prob = prob.mul_(1 - lowest).add_(lowest).index_fill_(0, first_positions(cu_seqlens), 1.0)
    z = sizes.randn(sizes.num_chunks, sizes.width)
    return {"z": z.requires_grad_(), "prob": prob.requires_grad_(), "cu_seqlens": cu_seqlens}


def eager(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Doubling passes over the pairs (decay, value) until they span the longest possible document."""
    weight = prob.clamp(MIN_PROB, 1 - MIN_PROB)
    decay = (1 - weight).index_fill(0, first_positions(cu_seqlens), 0.0)[:, None]
    value = weight[:, None] * z.float()
    shift = 1
    while shift < z.shape[0]:
        value = torch.cat([value[:shift], torch.addcmul(value[shift:], decay[shift:], value[:-shift])])
        decay = torch.cat([torch.zeros_like(decay[:shift]), decay[shift:] * decay[:-shift]])
        shift *= 2
    return value.to(z.dtype)


def upstream(z: Tensor, prob: Tensor, cu_seqlens: Tensor) -> Tensor:
    """As the released H-Net does it: Mamba-2's scan with one state, dt = -log(1-P), in bfloat16."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    num_rows, width, head = z.shape[0], z.shape[1], 32
    weight = prob.float().clamp(MIN_PROB, 1 - MIN_PROB)
    dt = torch.log(1 / (1 - weight)).bfloat16()
    x = (z / dt[:, None]).bfloat16()
    weight = weight.bfloat16()
    out = mamba_chunk_scan_combined(
        x.view(1, num_rows, width // head, head),
        dt[None, :, None].expand(1, num_rows, width // head).contiguous(),
        -torch.ones(width // head, device=z.device),
        weight.view(1, num_rows, 1, 1),
        torch.ones_like(weight).view(1, num_rows, 1, 1),
        chunk_size=256,
        seq_idx=segment_ids(cu_seqlens, num_rows)[None].int(),
    )
    return out.view(num_rows, width).to(z.dtype)


def floor(sizes: Sizes) -> tuple[int, int]:
    """z in, zbar out; going back the gradient, z and zbar in, dz out. Scalars of a row are not counted."""
    rows = sizes.num_chunks * sizes.row_bytes
    return 2 * rows, 4 * rows


OTHERS = {"eager": eager, "upstream": upstream}
CASES = (
    Case("ema", partial(inputs, lowest=0.5), partial(ema, at_least_half=True), floor, OTHERS),
    Case("ema_any", partial(inputs, lowest=0.0), ema, floor, OTHERS),
)
