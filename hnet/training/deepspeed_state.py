"""This rank's part of the fp32 weights and AdamW moments under ZeRO, parameter by parameter.

DeepSpeed lays the parameters of a group end to end and cuts the row into one part per rank (stages 1 and 2), or cuts
every parameter by itself (stage 3); AdamW sees the parts alone. The positions come from DeepSpeed's own tables. It has
public functions for whole tensors too, which communicate, and nothing here does but the end of `load`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hnet.training.fragments import MOMENTS, WEIGHT, Fragment, Read
from hnet.training.optimizer import new_adam_state


@dataclass(frozen=True, slots=True)
class Part:
    """The range of a parameter whose fp32 value this rank updates."""

    name: str
    parameter: Any
    start: int
    """First element in the flattened parameter."""
    master: Tensor
    """(n,) fp32, a view of what AdamW updates."""
    flat: Tensor
    """The tensor in AdamW's groups that `master` is a view of."""
    offset: int
    """Where in `flat`."""

    def moment(self, state: Any, name: str) -> Tensor:
        """The view (n,) of one of AdamW's moments."""
        return state[self.flat][name].view(-1).narrow(0, self.offset, self.master.numel())


def parts(model: nn.Module, zero: Any) -> Iterator[Part]:
    """Parts of this rank, of DeepSpeed's stage 1, 2 or 3 optimizer `zero`. Padding is left out."""
    parameter: Any
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "ds_id"):
            group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
            start = parameter.ds_tensor.ds_numel * parameter.ds_zero_partition_rank
            length = min(length, parameter.ds_numel - start)
            flat = zero.fp32_partitioned_groups_flat[group]
        elif parameter._hp_mapping is not None:
            mapping = parameter._hp_mapping
            start, offset, length = (
                mapping.lp_fragment_address.start,
                mapping.hp_fragment_address.start,
                mapping.hp_fragment_address.numel,
            )
            flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
        else:
            continue
        if length > 0:
            yield Part(name, parameter, start, flat.detach().view(-1).narrow(0, offset, length), flat, offset)


def fragments(model: nn.Module, zero: Any) -> Iterator[Fragment]:
    """What this rank writes; moments once AdamW has made an update."""
    for part in parts(model, zero):
        yield Fragment(f"{WEIGHT}/{part.name}", part.start, part.master)
        if part.flat in zero.optimizer.state:
            for moment in MOMENTS:
                yield Fragment(f"{moment}/{part.name}", part.start, part.moment(zero.optimizer.state, moment))


def load(model: nn.Module, zero: Any, read: Read, num_updates: int) -> None:
    """Set weights, masters and AdamW's state after `num_updates`. Every rank must call."""
    is_sharded = hasattr(zero, "fp32_partitioned_groups_flat")
    if is_sharded:
        zero.checkpoint_event_prologue()  # lets go of whole copies of parameters
    else:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(read(f"{WEIGHT}/{name}", 0, parameter.numel()).view_as(parameter))
    state = zero.optimizer.state
    if num_updates:
        for flat in zero.fp32_partitioned_groups_flat if is_sharded else zero.single_partition_of_fp32_groups:
            state[flat] = new_adam_state(flat, num_updates)
    for part in parts(model, zero):
        stop = part.start + part.master.numel()
        part.master.copy_(read(f"{WEIGHT}/{part.name}", part.start, stop))
        if is_sharded:
            part.parameter.ds_tensor.data.narrow(0, 0, part.master.numel()).copy_(part.master)
        for moment in MOMENTS if num_updates else ():
            part.moment(state, moment).copy_(read(f"{moment}/{part.name}", part.start, stop))
    if is_sharded:
        zero.checkpoint_event_epilogue()  # gathers the small parameters that are kept whole
    else:
        zero._hp_optimizer_states_linked = False


@contextlib.contextmanager
def whole(parameter: Any) -> Iterator[Tensor]:
    """An unset tensor of a ZeRO-3 parameter's full shape, whose part for this rank becomes the shard at the end. On the
    CPU, so that what is drawn for it is the same on every device."""
    full = torch.empty(parameter.ds_shape)
    yield full
    start = parameter.ds_tensor.ds_numel * parameter.ds_zero_partition_rank
    part = full.view(-1)[start : start + parameter.ds_tensor.ds_numel]
    parameter.ds_tensor.data.zero_()[: part.numel()].copy_(part)
    # Hybrid sharding gathers from a second copy where there is one, and would find it unset.
    parameter.ds_secondary_tensor = None


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Full shapes, also of parameters that ZeRO-3 has cut."""
    return {name: getattr(parameter, "ds_shape", parameter.shape) for name, parameter in model.named_parameters()}
