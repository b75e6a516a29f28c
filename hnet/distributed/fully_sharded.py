"""FSDP2 (torch's `fully_shard`): parameters, gradients and optimizer state cut along their first axis."""

from collections.abc import Iterable

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor


def shard_fully(model: nn.Module, units: Iterable[nn.Module], *, device_type: str, group: int | None) -> None:
    """Shard `model` in place over all ranks. Parameters of a unit are gathered together, and the rest of the model's.

    With `group`, neighbouring ranks of that many shard, and the groups hold copies (hybrid sharding); it divides the
    number of ranks.
    """
    world_size = dist.get_world_size()
    shape, names = ((world_size,), ("shard",)) if group is None else ((world_size // group, group), ("copy", "shard"))
    mesh = init_device_mesh(device_type, shape, mesh_dim_names=names)
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_again(model: nn.Module) -> None:
    """Let go of what a forward pass has gathered of a model that `shard_fully` has sharded."""
    assert isinstance(model, FSDPModule)
    model.reshard()


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a sharded tensor; perhaps nothing."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


def local_range(tensor: Tensor) -> tuple[int, int]:
    """Where that lies in the flattened full tensor: first element and the one after the last."""
    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh["shard"]
    rows = -(-tensor.shape[0] // mesh.size())  # as `torch.chunk` cuts
    start = min(rows * mesh.get_local_rank() * tensor.shape[1:].numel(), tensor.numel())
    return start, start + local(tensor).numel()


def holds_first_copy(tensor: Tensor) -> bool:
    """Whether this rank is in the first of the groups that hold copies."""
    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh
    return "copy" not in (mesh.mesh_dim_names or ()) or mesh["copy"].get_local_rank() == 0


def full(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor, or of a result computed on shards. Every rank must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
