"""The state of a run as pieces of flat tensors: what a checkpoint is written from and read into.

A piece names a tensor, where in the flattened full tensor it begins, and its values. How state is sharded is the
engine's affair; a checkpoint knows pieces alone, so any engine, ZeRO stage and number of ranks reads what any other
wrote.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hnet.training.optimizer import new_adam_state

WEIGHT = "weight"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A range of one tensor."""

    tensor: str
    """`weight/NAME`, `exp_avg/NAME` or `exp_avg_sq/NAME`; NAME is that of a parameter of the language model."""
    start: int
    """First element in the flattened full tensor."""
    values: Tensor
    """(n,) fp32, on any device. May be a view of live state: copy it before the next update."""


Read = Callable[[str, int, int], Tensor]
"""`read(tensor, start, stop)`: that range of a saved tensor as (stop - start,) fp32 on the CPU."""


def deal(shapes: Mapping[str, torch.Size], num_ranks: int) -> dict[str, int]:
    """The rank that writes each parameter where every rank holds all of them: the largest first, to the least laden."""
    load = [0] * num_ranks
    owner = {}
    for name in sorted(shapes, key=lambda name: shapes[name].numel(), reverse=True):
        owner[name] = load.index(min(load))
        load[owner[name]] += shapes[name].numel()
    return owner


def whole_fragments(name: str, parameter: Tensor, adam_state: Mapping[str, Any]) -> Iterator[Fragment]:
    """A whole parameter and its moments; `adam_state` is empty before the first update."""
    yield Fragment(f"{WEIGHT}/{name}", 0, parameter.detach().float().flatten())
    for moment in MOMENTS if adam_state else ():
        yield Fragment(f"{moment}/{name}", 0, adam_state[moment].float().flatten())


def load_whole(model: nn.Module, optimizer: torch.optim.Optimizer, read: Read, num_updates: int) -> None:
    """Set all weights of `model`, and AdamW's state as after `num_updates`, where every rank holds all of them."""
    for name, parameter in model.named_parameters():
        weight = read(f"{WEIGHT}/{name}", 0, parameter.numel())
        parameter.data.copy_(weight.view_as(parameter))
        if num_updates and parameter.requires_grad:
            state = new_adam_state(parameter, num_updates)
            for moment in MOMENTS:
                state[moment].copy_(read(f"{moment}/{name}", 0, parameter.numel()).view_as(parameter))
            optimizer.state[parameter] = state
