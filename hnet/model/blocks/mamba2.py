"""Mamba-2 mixer on packed documents (Dao & Gu 2024, arXiv 2405.21060, section 6)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hnet.model.blocks.context import PackContext
from hnet.model.blocks.norm import GatedRMSNorm
from hnet.model.cache import StateCache
from hnet.model.config import SSMConfig
from hnet.model.precision import at_least_float32
from hnet.model.sharding import Shard
from hnet_kernels import causal_conv1d, ssd_final_states, ssd_scan


class DepthwiseConv(nn.Module):
    """Causal depthwise convolution and SiLU: weight (C, K), bias (C,).

    A module with its own `forward`, since ZeRO-3 and FSDP gather parameters around that.
    """

    def __init__(self, channels: int, taps: int, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(channels, taps, device=device))
        self.bias = nn.Parameter(torch.empty(channels, device=device))

    def forward(self, x: Tensor, cu_seqlens: Tensor) -> Tensor:
        """(T, C) -> (T, C)."""
        return causal_conv1d(x, self.weight, self.bias, cu_seqlens)

    def step(self, taps: Tensor) -> Tensor:
        """The last K units (R, C, K) of R documents -> the output (R, C) at the last."""
        return F.silu((taps * self.weight).sum(-1) + self.bias)


class Mamba2(nn.Module):
    """`in_proj` gives z | x | B | C | dt; x, B and C pass a short convolution, then the state-space scan.

    Inner width di = expand * d in heads of head_dim, one group of B and C, state size N = d_state.
    """

    def __init__(
        self, dim: int, config: SSMConfig, norm_eps: float, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.inner = config.expand * dim
        self.num_heads = self.inner // config.head_dim
        conv_channels = self.inner + 2 * config.d_state
        self.in_proj = nn.Linear(dim, self.inner + conv_channels + self.num_heads, bias=False, device=device)
        self.conv = DepthwiseConv(conv_channels, config.d_conv, device=device)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads, device=device))
        self.A_log = nn.Parameter(torch.empty(self.num_heads, device=device))
        self.D = nn.Parameter(torch.empty(self.num_heads, device=device))
        self.norm = GatedRMSNorm(self.inner, norm_eps, device=device)
        self.out_proj = nn.Linear(self.inner, dim, bias=False, device=device)

    def forward(self, x: Tensor, context: PackContext, cache: StateCache | None = None) -> Tensor:
        """(T, D) -> (T, D). A cache is filled with the convolution taps and scan state of every row."""
        z, xbc, dt = self._project(x)
        mixed = self.conv(xbc, context.cu_seqlens) if context.shard is None else self._convolved(xbc, context)
        u, b, c = self._split(mixed)
        dt = F.softplus(at_least_float32(dt) + self.dt_bias)
        decay_rate = -self.A_log.exp()
        if cache is None:
            y = ssd_scan(u, dt, decay_rate, b, c, self.D, context.cu_seqlens)
            if context.shard is not None:
                y = continue_scan(y, u, dt, decay_rate, b, c, context.shard)
        else:
            y, states = ssd_scan(u, dt, decay_rate, b, c, self.D, context.cu_seqlens, return_final_states=True)
            kept, rows = context.kept
            cache.write("ssm", states[kept], rows)
            cache.write("conv", self._last_taps(xbc, context)[kept], rows)
        return self.out_proj(self.norm(y.flatten(1), z))

    def step(self, x: Tensor, cache: StateCache, rows: Tensor) -> Tensor:
        """One unit (R, D) for each of `rows` (R,) -> (R, D)."""
        z, xbc, dt = self._project(x)
        none = xbc.new_zeros(*xbc.shape, self.config.d_conv - 1)
        taps = torch.cat([cache.read("conv", rows, none), xbc[:, :, None]], -1)
        cache.write("conv", taps[:, :, 1:], rows)
        mixed = self.conv.step(taps)
        u, b, c = (at_least_float32(part) for part in self._split(mixed))
        dt = F.softplus(at_least_float32(dt) + self.dt_bias)
        decay = (-self.A_log.exp() * dt).exp()
        state = cache.read("ssm", rows, u.new_zeros(*u.shape, self.config.d_state))
        state = state * decay[:, :, None, None] + (u * dt[:, :, None])[..., None] * b[:, None, None]
        cache.write("ssm", state, rows)
        y = (state @ c[:, None, :, None]).squeeze(-1) + self.D[:, None] * u
        return self.out_proj(self.norm(y.flatten(1).to(z.dtype), z))

    def new_cache(self, num_rows: int) -> StateCache:
        return StateCache(num_rows)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sizes = [self.inner, self.inner + 2 * self.config.d_state, self.num_heads]
        z, xbc, dt = self.in_proj(x).split(sizes, -1)
        return z, xbc, dt

    def _convolved(self, xbc: Tensor, context: PackContext) -> Tensor:
        assert context.shard is not None
        extended, cu_seqlens, halo = context.shard.with_halo(xbc, context.cu_seqlens, self.config.d_conv - 1)
        return self.conv(extended, cu_seqlens)[halo:]

    def _split(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        u, b, c = mixed.split([self.inner, self.config.d_state, self.config.d_state], -1)
        return u.unflatten(-1, (self.num_heads, self.config.head_dim)), b, c

    def _last_taps(self, xbc: Tensor, context: PackContext) -> Tensor:
        """Inputs (B, C, K - 1) of the last K - 1 units of each document, zero where it is shorter."""
        ends = context.cu_seqlens[1:].long()
        lengths = context.cu_seqlens.diff().long()
        back = torch.arange(self.config.d_conv - 1, 0, -1, device=xbc.device)
        index = (ends[:, None] - back).clamp(min=0)
        taps = xbc[index] * (back <= lengths[:, None])[..., None]
        return taps.transpose(1, 2)


def continue_scan(y: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, shard: Shard) -> Tensor:
    """`y` (T, H, P) of a scan that began at zero, plus what the state brings that enters from earlier processes.

    The other arguments are those of `ssd_scan`. The scan is linear in its state, so the two parts add up.
    """
    begin, end = shard.last_fragment, shard.num_continued
    whole = torch.arange(2, dtype=torch.int32, device=x.device) * (x.shape[0] - begin)
    state = ssd_final_states(x[begin:], dt[begin:], A, B[begin:], whole)[0]
    entering = shard.carry(state, (dt[begin:].double() * A.double()).sum(0))
    # In float64, as this is a running sum over a whole document.
    decay = (dt[:end].double() * A.double()).cumsum(0).exp().to(state.dtype)
    brought = (C[:end].to(state.dtype) @ entering.flatten(0, 1).t()).unflatten(1, y.shape[1:]) * decay[..., None]
    return torch.cat([(y[:end] + brought).to(y.dtype), y[end:]])
