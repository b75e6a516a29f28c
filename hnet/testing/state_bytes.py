"""`measure(engine) -> {"parameters": b, "gradients": b, "optimizer": b}`: bytes that this rank holds of each.

Live tensors are counted, each storage once, wherever they lie (device or host), so the figures do not depend on an
allocator. Communication buckets, and parameters that are whole only while a layer runs, are not state and not counted.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from hnet.training.engine import Engine

_MASTERS = ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups")
"""Where DeepSpeed's stage 3, and stages 1 and 2, keep this rank's fp32 weights."""


def measure(engine: Engine) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state (moments, and master weights where they are copies).

    Gradients are there between a backward pass and the update, moments from the second step on: see `measured`.
    """
    zero = getattr(engine, "zero", None)
    adam = getattr(zero, "optimizer", engine.optimizer.torch_optimizer)
    parameters = list(engine.model.parameters())
    masters: list[Tensor] = next((getattr(zero, name) for name in _MASTERS if hasattr(zero, name)), [])
    weights = _storages(_held(parameters))
    gradients = _storages([*_gradients(parameters), *_gradients(masters), *_zero_gradients(zero)])
    state = _storages([*masters, *(value for state in adam.state.values() for value in state.values())])
    return {
        "parameters": sum(weights.values()),
        "gradients": sum(gradients.values()),
        "optimizer": sum(size for address, size in state.items() if address not in weights),
    }


@contextlib.contextmanager
def measured(engine: Engine) -> Iterator[dict[str, int]]:
    """Within the context every backward pass raises the dict's figures to what is held after it: from the second step
    on, and with two micro-batches a step or more, that is the most."""
    figures = {"parameters": 0, "gradients": 0, "optimizer": 0}
    backward = engine.backward

    def measuring_backward(loss: Tensor, is_last: bool) -> None:
        backward(loss, is_last)
        figures.update({key: max(figures[key], size) for key, size in measure(engine).items()})

    engine.backward = measuring_backward  # type: ignore[method-assign]
    try:
        yield figures
    finally:
        engine.backward = backward  # type: ignore[method-assign]


def _held(parameters: Iterable[Any]) -> Iterator[Tensor]:
    """What a parameter keeps in memory: its values, or this rank's shard of them and what else ZeRO-3 keeps."""
    for parameter in parameters:
        yield parameter.data
        for name in ("ds_tensor", "ds_secondary_tensor"):
            if getattr(parameter, name, None) is not None:
                yield getattr(parameter, name)


def _gradients(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    return (tensor.grad for tensor in tensors if tensor.grad is not None)


def _zero_gradients(optimizer: Any) -> Iterator[Tensor]:
    """Where DeepSpeed keeps what it has averaged: stage 3 in one buffer, stages 1 and 2 by group."""
    if getattr(optimizer, "grad_partitions_flat_buffer", None) is not None:
        yield optimizer.grad_partitions_flat_buffer
    for group in getattr(optimizer, "averaged_gradients", {}).values():
        yield from (tensor for tensor in group or () if tensor is not None)


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """Bytes by address."""
    local = (getattr(tensor, "_local_tensor", tensor) for tensor in tensors)
    storages = [tensor.untyped_storage() for tensor in local if isinstance(tensor, torch.Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
