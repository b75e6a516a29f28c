"""Which library runs an operation on an accelerator.

A `Face` is one operation with the libraries that can run it, best first. The first one that is installed and suits the
tensors runs; that choice is said once in the log. On a CPU our own code runs. `provider` overrules both.
"""

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

log = logging.getLogger(__name__)
Made = TypeVar("Made")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Provider:
    """One way to run an operation."""

    name: str
    run: Callable[..., Any]
    """The adapter: the face's arguments in, its results out. It imports the library when it is called."""
    suits: Callable[..., bool] = lambda *args, **kwargs: True
    """Whether it can run these arguments; asked only on an accelerator and without an override."""
    modules: tuple[str, ...] = ()
    """What must be importable."""
    install: str = ""
    """How to get it, for the message that says it is missing."""


class Face:
    """An operation and its providers, best first; the last one needs nothing but PyTorch and suits everything."""

    def __init__(self, op: str, *providers: Provider) -> None:
        self.op = op
        self.providers = {provider.name: provider for provider in providers}
        _faces[op] = self

    def wants(self, x: Tensor) -> bool:
        """Whether a provider runs tensors like x, and not the CPU's own code."""
        return x.device.type not in ("cpu", "meta") or self.op in _overrides

    def choose(self, *args: Any, **kwargs: Any) -> Provider:
        """The provider that runs these arguments of the adapters."""
        wanted = _overrides.get(self.op)
        if wanted is not None:
            return self.providers[wanted]
        *libraries, chosen = self.providers.values()
        for library in libraries:
            if installed(library.modules) and library.suits(*args, **kwargs):
                chosen = library
                break
        _announce(self.op, chosen.name, args[0].dtype)
        return chosen

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.choose(*args, **kwargs).run(*args, **kwargs)


_faces: dict[str, Face] = {}
_overrides: dict[str, str] = {}


@contextmanager
def provider(op: str, name: str) -> Iterator[None]:
    """Within the block `name` runs the operation `op`, on a CPU too; the backward pass follows the forward pass.

    Raises:
        ValueError: there is no such operation, or it has no such provider.
        ImportError: the provider is not installed.
    """
    face = _faces.get(op)
    if face is None:
        raise ValueError(f"{op} is no operation with providers: choose one of {', '.join(sorted(_faces))}")
    if name not in face.providers:
        raise ValueError(f"{op} has no provider {name}: choose one of {', '.join(face.providers)}")
    wanted = face.providers[name]
    if not installed(wanted.modules):
        missing = ", ".join(module for module in wanted.modules if not installed((module,)))
        raise ImportError(f"{op}: provider {name} needs {missing}, which is not installed; {wanted.install}")
    before = _overrides.get(op)
    _overrides[op] = name
    try:
        yield
    finally:
        if before is None:
            del _overrides[op]
        else:
            _overrides[op] = before


def constant(function: Function) -> Function:
    """torch.compile takes the answer as a constant and does not look inside.

    As `torch.compiler.assume_constant_result`, but that imports the compiler, for a second and more.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def opaque(function: Function) -> Function:
    """torch.compile does not look inside, and breaks its graph. The compiler is imported when it is called first."""

    disabled: list[Callable[..., Any]] = []

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*args, **kwargs)

    return run  # type: ignore[return-value]


@constant
def installed(modules: tuple[str, ...]) -> bool:
    """Whether all the modules can be found. Nothing is imported: some of these libraries take seconds."""
    return all(_found(module) for module in modules)


@constant
def _announce(op: str, name: str, dtype: torch.dtype) -> bool:
    return _announce_once(op, name, dtype)


@cache
def _announce_once(op: str, name: str, dtype: torch.dtype) -> bool:
    log.info("%s in %s runs on %s", op, str(dtype).removeprefix("torch."), name)
    return True


def _found(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    return _on_disk(module)


@cache
def _on_disk(module: str) -> bool:
    top, *inner = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not inner:
        return spec is not None
    # find_spec would import the packages above the module.
    places = [Path(place, *inner) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


_of_packs: WeakIdKeyDictionary = WeakIdKeyDictionary()


def per_pack(cu_seqlens: Tensor, what: tuple[Any, ...], make: Callable[[], Made]) -> Made:
    """`make()`, remembered under `what` as long as the tensor `cu_seqlens` lives unchanged.

    Every layer of a stack is given the same tensor, so what follows from it alone is made once per pack. Under
    torch.compile nothing is remembered: equal expressions are merged there.
    """
    if torch.compiler.is_compiling():
        return make()
    version = 0 if cu_seqlens.is_inference() else cu_seqlens._version
    known: dict[tuple[Any, ...], Any] = _of_packs.setdefault(cu_seqlens, {})
    if (version, what) not in known:
        known[version, what] = make()
    made: Made = known[version, what]
    return made


def rows_fit_int32(*tensors: Tensor) -> bool:
    """Whether offsets into every tensor (T, ...) fit 32 bits, as kernels that count so need."""
    return all(t.shape[0] * t.stride(0) < 2**31 for t in tensors)


def is_half(x: Tensor) -> bool:
    """Whether x is on a GPU in half precision: what most libraries are made for."""
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16)
