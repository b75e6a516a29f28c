"""`Stack`: the layers that a layer string such as `m4T2` names, perhaps followed by a norm."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hnet.model.blocks.attention import Attention
from hnet.model.blocks.context import PackContext
from hnet.model.blocks.mamba2 import Mamba2
from hnet.model.blocks.mlp import SwiGLU
from hnet.model.blocks.norm import RMSNorm
from hnet.model.cache import LayerCache
from hnet.model.config import StageConfig, parse_layers
from hnet.model.injection import Injection
from hnet.model.packed import Packed
from hnet.model.precision import at_least_float32


class Block(nn.Module):
    """Pre-norm residual layer: r += mixer(norm1(r)); with an MLP also r += mlp(norm2(r)). r is float32."""

    def __init__(
        self, kind: str, config: StageConfig, norm_eps: float, *, device: torch.device | str | None = None
    ) -> None:
        super().__init__()
        dim = config.d_model
        self.norm1 = RMSNorm(dim, norm_eps, device=device)
        self.mixer: Mamba2 | Attention
        if kind in "mM":
            self.mixer = Mamba2(dim, config.ssm, norm_eps, device=device)
        else:
            self.mixer = Attention(dim, config.attention, device=device)
        self.norm2 = RMSNorm(dim, norm_eps, device=device) if kind.isupper() else None
        self.mlp = SwiGLU(dim, config.mlp_width, device=device) if kind.isupper() else None

    @property
    def num_residuals(self) -> int:
        """Additions to the residual stream: 1, or 2 with an MLP."""
        return 1 if self.mlp is None else 2

    def forward(self, residual: Tensor, context: PackContext, cache: LayerCache | None = None) -> Tensor:
        """(T, D) float32 -> (T, D) float32."""
        mixed = self.mixer(self.norm1(residual).to(context.dtype), context, cache)
        return self._mlp(residual + mixed, context.dtype)

    def step(self, residual: Tensor, cache: LayerCache, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """One unit (R, D) float32 for each of `rows`; `dtype` is that of the mixer's and the MLP's inputs."""
        mixed = self.mixer.step(self.norm1(residual).to(dtype), cache, rows)  # type: ignore[arg-type]
        return self._mlp(residual + mixed, dtype)

    def _mlp(self, residual: Tensor, dtype: torch.dtype) -> Tensor:
        if self.mlp is None or self.norm2 is None:
            return residual
        return residual + self.mlp(self.norm2(residual).to(dtype))


class Stack(nn.Module):
    """Blocks and, unless `has_norm` is False, a final norm. The residual stream starts afresh in every stack."""

    def __init__(
        self,
        layers: str,
        config: StageConfig,
        norm_eps: float,
        *,
        causal: bool = True,
        has_norm: bool = True,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(kind, config, norm_eps, device=device) for kind in parse_layers(layers))
        self.norm = RMSNorm(config.d_model, norm_eps, device=device) if has_norm else None
        self._rotates, self._attention = bool(set(layers) & set("tT")), config.attention
        self.causal = causal
        self.activation_checkpointing = False

    @property
    def num_residuals(self) -> int:
        return sum(block.num_residuals for block in self.layers)  # type: ignore[misc]

    def forward(
        self, pack: Packed, caches: list[LayerCache] | None = None, injection: Injection | None = None
    ) -> Tensor:
        """(T, D) -> (T, D) in the dtype of its values."""
        x, context = pack.values, PackContext(pack, causal=self.causal)
        if self._rotates:
            # Made here, not by the first layer: a compiled block cannot make what others share.
            context.rotary(self._attention.rotary_dim, self._attention.rotary_base)
        residual = at_least_float32(x)
        for index, block in enumerate(self.layers):
            if injection is not None:
                residual = injection(index, residual)
            if caches is not None:
                residual = block(residual, context, caches[index])
            elif self.activation_checkpointing and self.training:
                residual = checkpoint(block, residual, context, use_reentrant=False)
            else:
                residual = block(residual, context)
        return self._closed(residual).to(x.dtype)

    def step(self, x: Tensor, caches: list[LayerCache], rows: Tensor, injection: Injection | None = None) -> Tensor:
        """One unit (R, D) for each of `rows` -> (R, D)."""
        residual = at_least_float32(x)
        for index, (block, cache) in enumerate(zip(self.layers, caches, strict=True)):
            if injection is not None:
                residual = injection(index, residual)
            residual = block.step(residual, cache, rows, x.dtype)  # type: ignore[operator]
        return self._closed(residual).to(x.dtype)

    def new_caches(self, num_rows: int) -> list[LayerCache]:
        return [block.mixer.new_cache(num_rows) for block in self.layers]  # type: ignore[union-attr, operator]

    def _closed(self, residual: Tensor) -> Tensor:
        return residual if self.norm is None else self.norm(residual)
