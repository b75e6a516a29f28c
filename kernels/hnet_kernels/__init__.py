"""Kernels of hierarchical byte models: one folder per op, usable without `hnet`."""

from hnet_kernels.causal_conv1d.op import causal_conv1d
from hnet_kernels.chunk.op import chunk
from hnet_kernels.ema.op import ema
from hnet_kernels.rms_norm.op import gated_rms_norm, rms_norm
from hnet_kernels.route.op import route
from hnet_kernels.ssd_scan.op import ssd_scan
from hnet_kernels.upsample.op import upsample
from hnet_kernels.varlen_attention.op import varlen_attention

__all__ = [
    "causal_conv1d",
    "chunk",
    "ema",
    "gated_rms_norm",
    "rms_norm",
    "route",
    "ssd_scan",
    "upsample",
    "varlen_attention",
]
