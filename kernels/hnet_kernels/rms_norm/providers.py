"""The libraries that run both norms on an accelerator, one adapter each, best first.

`rms_norm`:
1. `torch-fused`             x and weight of one dtype; PyTorch's own fused kernel (2.9 and later on CUDA).
2. `flash-linear-attention`  x and weight of different dtypes, as under autocast.
3. `torch`                   everything: in float32 and back.

`gated_rms_norm`:
1. `mamba-ssm`               the official kernel, in which the gate comes before the norm.
2. `torch`                   everything: the gate in float32, then PyTorch's norm.

While torch.compile looks, `torch` is taken: the compiler fuses it with what stands around it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_kernels.packed import widen
from hnet_kernels.providers import Face, Provider, constant, rows_fit_int32

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MOST_BYTES = 65536
"""Of one row, in the kernels of both libraries."""


def eager_rows(x: Tensor) -> bool:
    """Whether the libraries' row kernels take x and nothing better does."""
    fits = x.dtype in DTYPES and x.shape[-1] * x.dtype.itemsize <= MOST_BYTES
    return x.is_cuda and fits and not torch.compiler.is_compiling()


@constant
def has_fused() -> bool:
    return hasattr(torch.ops.aten, "_fused_rms_norm")


def suits_fused(x: Tensor, weight: Tensor, _eps: float) -> bool:
    return x.is_cuda and x.dtype == weight.dtype and has_fused()


def fused(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    # Autocast would widen x in memory; the kernel does so in registers.
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(x, weight.shape, weight, eps)


def suits_fla(x: Tensor, _weight: Tensor, _eps: float) -> bool:
    return eager_rows(x)


def fla(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    from fla.modules.layernorm import rms_norm

    out: Tensor = rms_norm(x, weight, None, eps=eps)
    return out


def plain(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide, weight = widen(x, weight)
    with torch.autocast(x.device.type, enabled=False):
        return F.rms_norm(wide, weight.shape, weight, eps).to(x.dtype)


face = Face(
    "rms_norm",
    Provider("torch-fused", fused, suits_fused),
    Provider(
        "flash-linear-attention",
        fla,
        suits_fla,
        ("fla.modules",),
        "pip install 'flash-linear-attention>=0.6', or the extra [gpu]",
    ),
    Provider("torch", plain),
)


def suits_mamba(y: Tensor, z: Tensor, *_: Any) -> bool:
    return eager_rows(y) and y.dtype == z.dtype and y.numel() < 2**31 and rows_fit_int32(z)


def mamba(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

    out: Tensor = rmsnorm_fn(y, weight, None, z=z, eps=eps, norm_before_gate=False)
    return out


def plain_gated(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide_y, wide_z, wide_weight = widen(y, z, weight)
    return plain(wide_y * F.silu(wide_z), wide_weight, eps).to(y.dtype)


gated_face = Face(
    "gated_rms_norm",
    Provider(
        "mamba-ssm",
        mamba,
        suits_mamba,
        ("mamba_ssm.ops.triton.layernorm_gated",),
        "pip install --no-build-isolation mamba-ssm",
    ),
    Provider("torch", plain_gated),
)
