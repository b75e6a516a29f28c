"""Multi-head self-attention on packed documents, full or with a sliding window, causal or both ways."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.blocks.context import PackContext
from hnet.model.blocks.rotary import rotary_tables
from hnet.model.cache import AttentionCache
from hnet.model.config import AttentionConfig
from hnet.model.sharding import Shard
from hnet_kernels import varlen_attention
from hnet_kernels.rotary.op import rotate


class Attention(nn.Module):
    """`qkv` projects to q | k | v, each (heads, head_dim), k and v perhaps of fewer heads; no biases; scale
    1 / sqrt(head_dim)."""

    def __init__(self, dim: int, config: AttentionConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        self.head_dim = dim // config.num_heads
        kv_width = config.kv_heads * self.head_dim
        self.qkv = nn.Linear(dim, dim + 2 * kv_width, bias=False, device=device)
        self.out_proj = nn.Linear(dim, dim, bias=False, device=device)

    def forward(self, x: Tensor, context: PackContext, cache: AttentionCache | None = None) -> Tensor:
        """(T, D) -> (T, D). A cache is filled with the keys and values of every row."""
        tables = context.rotary(self.config.rotary_dim, self.config.rotary_base)
        q, k, v = self._project(x, tables)
        if cache is not None:
            units, rows = context.kept_units
            cache.write(k[units], v[units], rows, context.positions[units])
        if context.shard is not None:
            out = self._over_peers(q, k, v, context.shard)
        else:
            out = varlen_attention(
                q,
                k,
                v,
                context.cu_seqlens,
                window=self.config.window,
                causal=context.causal,
                max_seqlen=context.max_seqlen,
            )
        return self.out_proj(out.flatten(1))

    def step(self, x: Tensor, cache: AttentionCache, rows: Tensor) -> Tensor:
        """One unit (R, D) for each of `rows` (R,) -> (R, D)."""
        positions = cache.next_positions(rows)
        tables = rotary_tables(positions, self.config.rotary_dim, self.config.rotary_base)
        q, k, v = self._project(x, tables if self.config.rotary_dim else None)
        cache.write(k, v, rows, positions)
        keys, values, filled = cache.read(rows)
        out = F.scaled_dot_product_attention(
            q[:, :, None],
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=filled[:, None, None],
            enable_gqa=self.config.kv_heads != self.config.num_heads,
        )
        return self.out_proj(out.flatten(1))

    def new_cache(self, num_rows: int) -> AttentionCache:
        return AttentionCache(num_rows, self.config.window)

    def _over_peers(self, q: Tensor, k: Tensor, v: Tensor, shard: Shard) -> Tensor:
        """Every process takes some of the heads and sees whole documents with them."""
        # Groups of heads need not divide over processes: every head gets its own keys and values.
        groups = self.config.num_heads // self.config.kv_heads
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        q, k, v = shard.to_heads(torch.stack([q, k, v], 1)).unbind(1)
        cu_seqlens = shard.documents.to(q.device, torch.int32)
        # More processes than heads: some have none, and only hand on.
        has_heads = q.shape[1] > 0
        out = (
            varlen_attention(q, k, v, cu_seqlens, window=self.config.window, max_seqlen=shard.max_seqlen)
            if has_heads
            else v
        )
        return shard.to_units(out, self.config.num_heads)

    def _project(self, x: Tensor, tables: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        heads, kv_heads = self.config.num_heads, self.config.kv_heads
        qk, v = self.qkv(x).view(x.shape[0], -1, self.head_dim).split([heads + kv_heads, kv_heads], 1)
        if tables is not None:
            qk = rotate(qk, *tables)
        q, k = qk.split([heads, kv_heads], 1)
        return q, k, v
