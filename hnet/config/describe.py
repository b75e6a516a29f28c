"""Words for types: what a configuration field allows, as a user reads it."""

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hnet.config.base import Allowed, Config

_SCALARS: dict[Any, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "text",
    type(None): "null",
}


def describe_field(info: FieldInfo) -> str:
    """What a field allows: `an integer of at least 1`."""
    return describe_type(info.annotation, info.metadata)


def describe_type(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The values of a type annotation in words, with the limits in `metadata`."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return describe_type(inner, [*metadata, *_flat(more)])
    given = next((item.text for item in metadata if isinstance(item, Allowed)), None)
    least = next((item.min_length for item in metadata if getattr(item, "min_length", None)), 0)
    if given is not None:
        return given + (f" (at least {least})" if least else "")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return f"a list{f' of at least {least}' if least else ''}, each item {describe_type(arguments[0])}"
    return _base(annotation, origin, arguments) + _limits(metadata)


def _flat(metadata: Sequence[Any]) -> list[Any]:
    return [limit for item in metadata for limit in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _base(annotation: Any, origin: Any, arguments: tuple[Any, ...]) -> str:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments)) if len(arguments) > 1 else f"'{arguments[0]}'"
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(member) for member in arguments)
    if origin is tuple:
        return f"a list of {len(arguments)} values: {'; '.join(describe_type(item) for item in arguments)}"
    if isinstance(annotation, type) and issubclass(annotation, Config):
        named = (
            f"a name in configs/{annotation.config_folder}, the path of a YAML file, or "
            if annotation.config_folder
            else ""
        )
        return f"{named}a mapping with the keys {', '.join(annotation.model_fields)}"
    return getattr(annotation, "__name__", str(annotation))


def _limits(metadata: Sequence[Any]) -> str:
    limits = {
        name: value
        for item in metadata
        for name in ("ge", "gt", "le", "lt", "multiple_of", "min_length", "max_length")
        if (value := getattr(item, name, None)) is not None
    }
    if "ge" in limits and "le" in limits:
        return f" from {limits['ge']} to {limits['le']}"
    words = {"ge": "of at least", "gt": "greater than", "le": "of at most", "lt": "less than"}
    words |= {
        "multiple_of": "that is a multiple of",
        "min_length": "of length at least",
        "max_length": "of length at most",
    }
    return "".join(f" {words[name]} {value}" for name, value in limits.items())
