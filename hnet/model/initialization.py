"""The official H-Net initialisation, as rules over modules.

| tensor | rule |
| --- | --- |
| embedding | N(0, 1) |
| head, linear layers in stacks | N(0, 0.02) |
| `out_proj`, `fc2` | N(0, 0.02 / sqrt(n)), n = residual additions of this stage's stacks and all outer ones |
| router `q_proj`, `k_proj` | identity |
| residual projection | weight 0, bias uniform +-1/sqrt(d) |
| `width_pad` | 0 |
| norms | 1 |
| convolution | uniform +-1/sqrt(taps) |
| `A_log` | log of uniform (1, 16) |
| `dt_bias` | inverse softplus of log-uniform (1e-3, 1e-1), at least 1e-4 |
| `D` | 1 |
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hnet.model.blocks.mamba2 import DepthwiseConv, Mamba2
from hnet.model.blocks.norm import RMSNorm
from hnet.model.boundaries.router import Router
from hnet.model.stack import Stack
from hnet.model.stage import Stage

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel

STD = 0.02


@torch.no_grad()
def initialize(model: "LanguageModel", seed: int | None = None) -> None:
    """Fill every parameter of `model` in place, from `seed` or from torch's global generator.

    Raises RuntimeError if a parameter has no rule: it would hold whatever memory it was given.
    """
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            initialize(model)
        return
    done: set[Tensor] = set()
    nn.init.normal_(model.embedding.weight, std=1.0)
    done.add(model.embedding.weight)
    if model.head.weight is not model.embedding.weight:
        nn.init.normal_(model.head.weight, std=STD)
        done.add(model.head.weight)
    _initialize_stage(model.stage, 0, done)
    missing = [name for name, parameter in model.named_parameters() if parameter not in done]
    if missing:
        raise RuntimeError(f"no initialisation rule for {missing}")


def _initialize_stage(stage: Stage, outer_residuals: int, done: set[Tensor]) -> None:
    if stage.width_pad is not None:
        done.add(nn.init.zeros_(stage.width_pad))
    stacks = [stage.main] if stage.config.is_innermost else [stage.encoder, stage.decoder]
    residuals = outer_residuals + sum(stack.num_residuals for stack in stacks)
    for stack in stacks:
        _initialize_stack(stack, residuals, done)
    if stage.config.is_innermost:
        return
    if isinstance(stage.router, Router):
        for projection in (stage.router.q_proj, stage.router.k_proj):
            done.add(nn.init.eye_(projection.weight))
    bound = 1 / math.sqrt(stage.config.d_model)
    done.add(nn.init.zeros_(stage.residual.weight))
    done.add(nn.init.uniform_(stage.residual.bias, -bound, bound))
    _initialize_stage(stage.inner, residuals, done)


def _initialize_stack(stack: Stack, residuals: int, done: set[Tensor]) -> None:
    for name, module in stack.named_modules():
        if isinstance(module, nn.Linear):
            closes_residual = name.endswith(("out_proj", "fc2"))
            done.add(nn.init.normal_(module.weight, std=STD / math.sqrt(residuals) if closes_residual else STD))
        elif isinstance(module, RMSNorm):
            done.add(nn.init.ones_(module.weight))
        elif isinstance(module, DepthwiseConv):
            bound = 1 / math.sqrt(module.weight.shape[1])
            done.add(nn.init.uniform_(module.weight, -bound, bound))
            done.add(nn.init.uniform_(module.bias, -bound, bound))
        elif isinstance(module, Mamba2):
            done.add(nn.init.uniform_(module.A_log, 1, 16).log_())
            step = nn.init.uniform_(module.dt_bias, math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
            done.add(step.add_(torch.log(-torch.expm1(-step))))
            done.add(nn.init.ones_(module.D))
