"""`key.path=value` overrides from the command line."""

import difflib
from typing import Any

from hnet.config.document import Document, KeyPath, parse_value, type_name
from hnet.errors import ConfigError


def parse_override(override: str) -> tuple[KeyPath, Any]:
    """`"model.stages.0.d_model=64"` -> `(("model", "stages", 0, "d_model"), 64)`.

    The value is YAML; one that is not, and does not begin like a list, mapping or quoted text, is plain text.
    """
    key, separator, text = override.partition("=")
    if not separator or not key or not all(key.split(".")):
        raise ConfigError(f"override {override!r} is not of the form key.path=value, such as training.steps=100")
    path = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    try:
        return path, parse_value(text)
    except ConfigError as error:
        if text.lstrip()[:1] in ("[", "{", '"', "'"):
            raise ConfigError(f"override {override!r}: the value is {str(error).partition(': ')[2]}") from error
        return path, text


def apply_override(document: Document, path: KeyPath, value: Any, override: str) -> None:
    """Set one value in the tree, making the mappings on the way. Raises ConfigError for a path that cannot exist."""
    origin = f"override '{override}'"
    node = document.tree
    for depth, (part, following) in enumerate(zip(path, path[1:], strict=False)):
        _check_step(node, part, path[:depth], origin)
        if isinstance(node, dict) and node.get(part) is None:
            if isinstance(following, int):
                raise ConfigError(
                    f"{origin}: {_dotted(path[: depth + 1])} is not set, so it has no item {following}; "
                    "give the whole list"
                )
            node[part] = {}
            document.origins[path[: depth + 1]] = origin
        node = node[part]
    _check_step(node, path[-1], path[:-1], origin)
    document.replace(path, Document(value, {(): origin}))


def _check_step(node: Any, part: str | int, above: KeyPath, origin: str) -> None:
    if isinstance(node, dict):
        if isinstance(part, int):
            keys = ", ".join(node)
            raise ConfigError(f"{origin}: {_dotted(above)} is a mapping, not a list; its keys: {keys}")
    elif isinstance(node, list):
        if not isinstance(part, int):
            raise ConfigError(
                f"{origin}: {_dotted(above)} is a list; '{part}' must be an index from 0 to {len(node) - 1}"
            )
        if part >= len(node):
            raise ConfigError(
                f"{origin}: {_dotted(above)} has {len(node)} items; '{part}' must be from 0 to {len(node) - 1}"
            )
    else:
        raise ConfigError(f"{origin}: {_dotted(above)} is {type_name(node)} ({node!r}) and has no '{part}' inside")


def _dotted(path: KeyPath) -> str:
    return ".".join(map(str, path)) or "the configuration"


def nearest_key(given: str, valid: list[str]) -> str | None:
    """The valid key that `given` was probably meant to be."""
    matches = difflib.get_close_matches(given, valid, n=1, cutoff=0.5)
    return matches[0] if matches else None
