"""Hierarchical language models: H-Net and its relatives, from bytes.

`import hnet` is light: torch and the model load when `build`, `load` or `generate` is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hnet.inference.generation import generate
    from hnet.model.loading import build, load

__version__ = "0.1.0"

_LAZY = {"build": "hnet.model.loading", "load": "hnet.model.loading", "generate": "hnet.inference.generation"}

__all__ = ["__version__", "build", "generate", "load"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'hnet' has no attribute '{name}'")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
