"""Kernels of hierarchical byte models: one folder per op, usable without `hnet`."""

from hnet_kernels.causal_conv1d.op import causal_conv1d
from hnet_kernels.chunk.op import Chunks, chunk, chunk_with_residual
from hnet_kernels.dispatch import backend
from hnet_kernels.ema.op import ema
from hnet_kernels.residual.op import residual_linear
from hnet_kernels.rms_norm.op import gated_rms_norm, rms_norm
from hnet_kernels.route.op import Routing, route
from hnet_kernels.ssd_scan.op import ssd_scan
from hnet_kernels.upsample.op import upsample
from hnet_kernels.varlen_attention.op import varlen_attention

__all__ = [
    "Chunks",
    "Routing",
    "backend",
    "causal_conv1d",
    "chunk",
    "chunk_with_residual",
    "ema",
    "gated_rms_norm",
    "residual_linear",
    "rms_norm",
    "route",
    "ssd_scan",
    "upsample",
    "varlen_attention",
]
