"""Which implementation of an op runs: its plain PyTorch `reference`, or its Triton kernels.

Both modules of an op folder define the same functions. Without a choice, tensors on a GPU go to the kernels and tensors
on a CPU to the reference; kernels run on a CPU, interpreted and slowly, only when asked for. They add up in float32, so
that float64 always goes to the reference.
"""

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor

Backend = Literal["auto", "reference", "triton"]

log = logging.getLogger(__name__)
_chosen: Backend = "auto"


@contextmanager
def backend(name: Backend) -> Iterator[None]:
    """Within the block every op runs its `reference`, or its `triton` kernels, wherever its tensors are.

    Triton kernels run on CPU tensors only in a process that began with TRITON_INTERPRET=1.
    """
    global _chosen
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


@cache
def has_triton() -> bool:
    """Whether Triton can be imported; if not, says so once."""
    found = importlib.util.find_spec("triton") is not None
    if not found:
        log.warning("triton is not installed: the slower reference operations run on the GPU")
    return found


class OnDevice:
    """A module whose functions run while `device` is the current one: Triton launches on no other."""

    def __init__(self, module: ModuleType, device: torch.device) -> None:
        self.module, self.device = module, device

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)

        def run(*args: Any, **kwargs: Any) -> Any:
            with torch.cuda.device(self.device):
                return function(*args, **kwargs)

        return run


def implementation(op: str, x: Tensor) -> Any:
    """The module `hnet_kernels.<op>.reference` or `hnet_kernels.<op>.triton` that runs the op for tensors like x.

    Its functions run on x's device, whichever is the current one.
    """
    wants_kernels = _chosen == "triton" or (_chosen == "auto" and x.is_cuda and has_triton())
    wants_kernels = wants_kernels and x.dtype != torch.float64
    module = importlib.import_module(f"hnet_kernels.{op}.{'triton' if wants_kernels else 'reference'}")
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        return OnDevice(module, x.device)
    return module
