"""Kernels of hierarchical byte models: one folder per op, usable without `hnet`."""

from hnet_kernels.causal_conv1d.op import causal_conv1d
from hnet_kernels.chunk.op import Chunks, chunk, chunk_with_residual
from hnet_kernels.cross_entropy.op import cross_entropy_sum
from hnet_kernels.dispatch import backend
from hnet_kernels.ema.op import ema
from hnet_kernels.hash_ngram.op import hash_ngram
from hnet_kernels.offset_linear.op import offset_linear
from hnet_kernels.providers import provider
from hnet_kernels.residual.op import residual_linear
from hnet_kernels.rms_norm.op import gated_rms_norm, rms_norm
from hnet_kernels.rotary.op import rotate
from hnet_kernels.route.op import Routing, route
from hnet_kernels.segment_attention.op import pool_attention, unpool_attention
from hnet_kernels.segment_reduce.op import segment_reduce
from hnet_kernels.ssd_scan.op import ssd_final_states, ssd_scan
from hnet_kernels.swiglu.op import swiglu
from hnet_kernels.upsample.op import upsample
from hnet_kernels.varlen_attention.op import varlen_attention

__all__ = [
    "Chunks",
    "Routing",
    "backend",
    "causal_conv1d",
    "chunk",
    "chunk_with_residual",
    "cross_entropy_sum",
    "ema",
    "gated_rms_norm",
    "hash_ngram",
    "offset_linear",
    "pool_attention",
    "provider",
    "residual_linear",
    "rms_norm",
    "rotate",
    "route",
    "segment_reduce",
    "ssd_final_states",
    "ssd_scan",
    "swiglu",
    "unpool_attention",
    "upsample",
    "varlen_attention",
]
