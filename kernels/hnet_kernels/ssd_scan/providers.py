"""The libraries that run Mamba-2's scan on an accelerator, one adapter each, best first.

1. `mamba-ssm`               fp16, bf16; the official kernels; B and C are not repeated for the heads.
2. `flash-linear-attention`  fp16, bf16; the scan as linear attention with a decay per head.
3. `reference`               everything: our own code in plain PyTorch. float32 runs here, since both libraries
                             multiply float32 in TF32.
"""

from typing import Any

import torch
from torch import Tensor

from hnet_kernels.packed import segment_ids
from hnet_kernels.providers import Provider, is_half, opaque, per_pack, rows_fit_int32

CHUNK = 256
Result = tuple[Tensor, Tensor | None]
"""y (T,H,P), and the states (B,H,P,N) if they are asked for and the library can give them here."""


def document_numbers(cu_seqlens: Tensor, num_units: int) -> Tensor:
    """(1,T) int32: the document of every unit."""
    return per_pack(cu_seqlens, ("seq_idx", num_units), lambda: segment_ids(cu_seqlens, num_units).int()[None])


def wants_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def suits_mamba(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *_: Any) -> bool:
    return is_half(x) and x.dtype == B.dtype == C.dtype and rows_fit_int32(x, B, C)


# Kernels that tune themselves by running are nothing that torch.compile can look into.
@opaque
def mamba(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, return_final_states: bool
) -> Result:
    """Its states of documents have no backward pass: it gives none where a gradient is wanted."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    with_states = return_final_states and not wants_gradient(x, dt, A, B)
    result = mamba_chunk_scan_combined(
        x[None],
        dt[None],
        A,
        B[None, :, None],
        C[None, :, None],
        chunk_size=CHUNK,
        D=D,
        seq_idx=document_numbers(cu_seqlens, x.shape[0]),
        cu_seqlens=cu_seqlens,
        return_varlen_states=with_states,
    )
    return (result[0][0], result[1]) if with_states else (result[0], None)


def suits_fla(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, *_: Any) -> bool:
    return is_half(x) and x.dtype == B.dtype == C.dtype


@opaque
def fla(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, cu_seqlens: Tensor, return_final_states: bool
) -> Result:
    """h_t = exp(g_t) h_{t-1} + k_t v_t^T and o_t = h_t^T q_t with g = dt A, k = B, v = dt x, q = C, scale 1."""
    from fla.ops.simple_gla import chunk_simple_gla

    heads = x.shape[1]
    y, states = chunk_simple_gla(
        q=C[None, :, None].expand(-1, -1, heads, -1),
        k=B[None, :, None].expand(-1, -1, heads, -1),
        v=(x * dt[..., None]).to(x.dtype)[None],
        g=(dt * A)[None],
        scale=1.0,
        output_final_state=return_final_states,
        cu_seqlens=per_pack(cu_seqlens, ("int64",), cu_seqlens.long),
    )
    return (y[0] + D[:, None] * x).to(x.dtype), states.transpose(-1, -2) if return_final_states else None


LIBRARIES = (
    Provider(
        "mamba-ssm",
        mamba,
        suits_mamba,
        ("mamba_ssm.ops.triton.ssd_combined",),
        "pip install --no-build-isolation mamba-ssm",
    ),
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.ops.simple_gla",),
        "pip install flash-linear-attention, or the extra [gpu]",
    ),
)
