"""The official H-Net initialisation, as rules over modules.

| tensor | rule |
| --- | --- |
| embedding | N(0, 1) |
| head, linear layers in stacks | N(0, 0.02) |
| `out_proj`, `fc2` | N(0, 0.02 / sqrt(n)), n = residual additions of this stage's stacks and all outer ones |
| router `q_proj`, `k_proj` | identity |
| residual projection | weight 0, bias uniform +-1/sqrt(d) |
| `width_pad` | 0 |
| `start` of unpools: what units see before the first chunk | 0 |
| linear layers of parts | as in stacks, biases 0 |
| norms | 1 |
| convolution | uniform +-1/sqrt(taps) |
| `A_log` | log of uniform (1, 16) |
| `dt_bias` | inverse softplus of log-uniform (1e-3, 1e-1), at least 1e-4 |
| `D` | 1 |
"""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hnet.model.blocks.mamba2 import DepthwiseConv, Mamba2
from hnet.model.blocks.norm import RMSNorm
from hnet.model.boundaries.router import Router
from hnet.model.residual import Residual
from hnet.model.stack import Stack
from hnet.model.stage import Stage

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel

STD = 0.02
Whole = Callable[[Tensor], AbstractContextManager[Tensor]]
"""Lends the full tensor of a parameter to be filled. Where parameters are sharded, its values reach the shard when the
context ends, and no two parameters need be whole at once."""


@torch.no_grad()
def initialize(model: "LanguageModel", seed: int | None = None, *, whole: Whole = contextlib.nullcontext) -> None:
    """Fill every parameter of `model` in place, from `seed` or from torch's global generator.

    Raises RuntimeError if a parameter has no rule: it would hold whatever memory it was given.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            initialize(model, whole=whole)
        return
    fill = Filler(whole)
    fill(model.embedding.weight, nn.init.normal_, std=1.0)
    if not model.config.tie_embeddings:
        _initialize_part(model.head, 1, fill)
    _initialize_part(model.embedding_addition, 1, fill)
    _initialize_stage(model.stage, 0, fill)
    missing = [name for name, parameter in model.named_parameters() if parameter not in fill.done]
    if missing:
        raise RuntimeError(f"no initialisation rule for {missing}")


def draw_as_constructed(model: nn.Module) -> None:
    """Draw from torch's global generator what the layers of a model built on "meta" would have drawn when constructed,
    so that what is drawn next is the same. One layer is in memory at a time."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.Linear(module.in_features, module.out_features, module.bias is not None)
        elif isinstance(module, nn.Embedding):
            nn.Embedding(module.num_embeddings, module.embedding_dim)


class Filler:
    """Fills parameters and remembers which: `fill(parameter, rule, **settings)` of the rule."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole
        self.done: set[Tensor] = set()

    def __call__(self, parameter: Tensor, rule: Callable[..., Any], **settings: float) -> None:
        with self._whole(parameter) as values:
            rule(values, **settings)
        self.done.add(parameter)


@runtime_checkable
class HasOwnParameters(Protocol):
    """A part with parameters that no layer inside it holds."""

    def initialize(self, fill: Filler) -> None:
        """Give each of them to `fill`."""


def _initialize_stage(stage: Stage, outer_residuals: int, fill: Filler) -> None:
    if stage.width_pad is not None:
        fill(stage.width_pad, nn.init.zeros_)
    stacks = [stage.main] if stage.config.is_innermost else [stage.encoder, stage.decoder]
    residuals = outer_residuals + sum(stack.num_residuals for stack in stacks)
    for stack in stacks:
        _initialize_stack(stack, residuals, fill)
    if stage.config.is_innermost:
        return
    if isinstance(stage.router, Router):
        for projection in (stage.router.q_proj, stage.router.k_proj):
            fill(projection.weight, nn.init.eye_)
    else:
        _initialize_part(stage.router, residuals, fill)
    _initialize_part(stage.pool, residuals, fill)
    if isinstance(stage.residual, Residual):
        bound = 1 / math.sqrt(stage.config.d_model)
        fill(stage.residual.weight, nn.init.zeros_)
        fill(stage.residual.bias, nn.init.uniform_, a=-bound, b=bound)
    _initialize_part(stage.unpool, residuals, fill)
    _initialize_stage(stage.inner, residuals, fill)


def _initialize_part(part: nn.Module, residuals: int, fill: Filler) -> None:
    """Linear layers, norms and embeddings by the table above; other parameters by the module's own `initialize`."""
    for name, module in part.named_modules():
        if isinstance(module, nn.Linear):
            closes_residual = name.endswith(("out_proj", "fc2"))
            fill(module.weight, nn.init.normal_, std=STD / math.sqrt(max(1, residuals)) if closes_residual else STD)
            if module.bias is not None:
                fill(module.bias, nn.init.zeros_)
        elif isinstance(module, RMSNorm):
            fill(module.weight, nn.init.ones_)
        elif isinstance(module, nn.Embedding):
            fill(module.weight, nn.init.normal_, std=1.0)
        elif isinstance(module, HasOwnParameters):
            module.initialize(fill)


def _initialize_stack(stack: Stack, residuals: int, fill: Filler) -> None:
    for name, module in stack.named_modules():
        if isinstance(module, nn.Linear):
            closes_residual = name.endswith(("out_proj", "fc2"))
            fill(module.weight, nn.init.normal_, std=STD / math.sqrt(residuals) if closes_residual else STD)
        elif isinstance(module, RMSNorm):
            fill(module.weight, nn.init.ones_)
        elif isinstance(module, DepthwiseConv):
            bound = 1 / math.sqrt(module.taps)
            fill(module.weight, nn.init.uniform_, a=-bound, b=bound)
            fill(module.bias, nn.init.uniform_, a=-bound, b=bound)
        elif isinstance(module, Mamba2):
            fill(module.A_log, _log_uniform_rate)
            fill(module.dt_bias, _inverse_softplus_of_step)
            fill(module.D, nn.init.ones_)


def _log_uniform_rate(values: Tensor) -> None:
    nn.init.uniform_(values, 1, 16).log_()


def _inverse_softplus_of_step(values: Tensor) -> None:
    step = nn.init.uniform_(values, math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
    step.add_(torch.log(-torch.expm1(-step)))
