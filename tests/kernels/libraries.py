"""Stand-ins for libraries that need a GPU: modules of the same name and signature that compute by loops."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest


@contextmanager
def stand_in(module: str, **contents: Any) -> Iterator[None]:
    """Within the block `import module` gives `contents`; its packages exist too."""
    with pytest.MonkeyPatch.context() as patch:
        above: ModuleType | None = None
        parts = module.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[:depth])
            made = ModuleType(name)
            made.__path__ = []  # type: ignore[attr-defined]
            if above is not None:
                setattr(above, parts[depth - 1], made)
            patch.setitem(sys.modules, name, made)
            above = made
        for name, value in contents.items():
            setattr(above, name, value)
        yield
