"""The libraries that run the convolution on an accelerator, one adapter each, best first.

1. `causal-conv1d`           fp16, bf16, fp32; 2 to 4 taps, channels a multiple of 8.
2. `flash-linear-attention`  fp16, bf16, fp32; any number of taps.
3. `torch`                   everything: shifted multiply-adds under autograd.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import segment_ids, widen
from hnet_kernels.providers import Face, Provider, opaque, per_pack, rows_fit_int32

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def suits_causal_conv1d(x: Tensor, weight: Tensor, *_: Any) -> bool:
    fits = 2 <= weight.shape[1] <= 4 and x.shape[1] % 8 == 0 and rows_fit_int32(x)
    return x.is_cuda and x.dtype in DTYPES and fits


def conv_package(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    from causal_conv1d import causal_conv1d_fn

    num_units = x.shape[0]
    document = per_pack(cu_seqlens, ("seq_idx", num_units), lambda: segment_ids(cu_seqlens, num_units).int()[None])
    if x.stride(0) % 8 or x.stride(1) != 1:
        x = x.contiguous()
    # (1,C,T) with the channels innermost: the only layout in which it knows documents.
    out: Tensor = causal_conv1d_fn(x[None].transpose(1, 2), weight, bias, seq_idx=document, activation="silu")
    return out[0].t()


def suits_fla(x: Tensor, *_: Any) -> bool:
    return x.is_cuda and x.dtype in DTYPES


# Kernels that tune themselves by running are nothing that torch.compile can look into.
@opaque
def fla(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    from fla.modules.causal_conv1d import causal_conv1d

    documents = per_pack(cu_seqlens, ("int64",), cu_seqlens.long)
    out: Tensor = causal_conv1d(x[None], weight=weight, bias=bias, activation="silu", cu_seqlens=documents)[0]
    return out[0]


def plain(x: Tensor, weight: Tensor, bias: Tensor, cu_seqlens: Tensor) -> Tensor:
    """No wait for the documents' lengths, unlike our op, whose blocks of rows end with the documents."""
    wide, weight, bias = widen(x, weight, bias)
    num_units = x.shape[0]
    document = per_pack(cu_seqlens, ("seq_idx", num_units), lambda: segment_ids(cu_seqlens, num_units).int()[None])[0]
    total = torch.addcmul(bias, wide, weight[:, -1])
    for shift in range(1, min(weight.shape[1], num_units)):
        same = (document[shift:] == document[:-shift])[:, None]
        reached = torch.where(same, wide[:-shift], 0)
        total = total + F.pad(reached * weight[:, -1 - shift], (0, 0, shift, 0))
    return F.silu(total).to(x.dtype)


face = Face(
    "causal_conv1d",
    Provider(
        "causal-conv1d",
        conv_package,
        suits_causal_conv1d,
        ("causal_conv1d.causal_conv1d_interface",),
        "pip install --no-build-isolation causal-conv1d",
    ),
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.modules.causal_conv1d",),
        "pip install 'flash-linear-attention>=0.6', or the extra [gpu]",
    ),
    Provider("torch", plain),
)
