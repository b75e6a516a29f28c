"""Validation errors as sentences: where, what was given, what is allowed."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from hnet.config.base import Config, Variants
from hnet.config.describe import describe_field, describe_type
from hnet.config.document import Document, KeyPath, type_name
from hnet.config.overrides import nearest_key
from hnet.errors import ConfigError

_VALUE_CHARACTERS = 80


@dataclass(frozen=True)
class _Place:
    """Where in the schema an error's location leads."""

    path: KeyPath
    allowed: str
    owner: type[Config]
    """The innermost configuration class on the way."""
    is_choice: bool = False
    """The location ended at a union: its members' complaints are one error."""


def to_config_error(error: ValidationError, cls: type[Config], document: Document) -> ConfigError:
    """One ConfigError for all that is wrong, each on a line of its own and each place once."""
    problems = [(problem, _locate(cls, problem["loc"], document)) for problem in error.errors(include_url=False)]
    choices = {place.path for _, place in problems if place.is_choice}
    messages: dict[KeyPath, str] = {}
    for problem, place in problems:
        inside = [other.path for _, other in problems if len(other.path) > len(place.path)]
        below = any(path[: len(place.path)] == place.path for path in inside)
        if problem["type"] == "too_short" and below:
            continue  # pydantic counts only the items that were valid
        if any(place.path[: len(choice)] == choice and place.path != choice for choice in choices):
            continue
        messages.setdefault(place.path, _message(problem, place, document))
    return ConfigError("\n".join(messages.values()))


def _message(problem: Any, place: _Place, document: Document) -> str:
    origin = document.origin(place.path)
    where = f"{origin}: " if origin else ""
    name = dotted(place.path)
    kind = problem["type"]
    if kind == "extra_forbidden":
        return where + _unknown_key(place)
    if kind == "missing" and place.path and isinstance(place.path[-1], str):
        return f"{where}missing key '{name}'; give {place.allowed}"
    if kind == "value_error":
        prefix = f"{name}: " if place.path else ""
        return f"{where}{prefix}{problem['ctx']['error']}"
    if kind == "missing":  # an item of a list of fixed length
        return f"{where}{dotted(place.path[:-1])} has too few items: item {place.path[-1]} is {place.allowed}"
    try:
        value = document.get(place.path)
    except (KeyError, IndexError, TypeError):
        value = problem["input"]
    remedy = (
        "; put it in quotes to make it text" if place.allowed == "text" and type(value) in (int, float, bool) else ""
    )
    return f"{where}{name}: got {_shown(value)}; allowed: {place.allowed}{remedy}"


def _unknown_key(place: _Place) -> str:
    given, above = str(place.path[-1]), dotted(place.path[:-1])
    valid = list(place.owner.model_fields)
    under = f" under {above}" if above else ""
    nearest = nearest_key(given, valid)
    if nearest:
        hint = f"; did you mean '{nearest}'?"
    else:
        elsewhere = [dotted((*place.path[:-1], *path)) for path in _field_paths(place.owner) if path[-1] == given]
        hint = f"; did you mean '{elsewhere[0]}'?" if elsewhere else "."
    return f"unknown key '{given}'{under}{hint} Valid keys: {', '.join(valid)}"


def _field_paths(cls: type[Config]) -> Iterator[KeyPath]:
    for name, info in cls.model_fields.items():
        yield (name,)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Config):
            yield from ((name, *path) for path in _field_paths(info.annotation))


def _locate(cls: type[Config], location: tuple[str | int, ...], document: Document) -> _Place:
    """Follow an error's location through the schema, without the tags that pydantic puts in for unions."""
    annotation: Any = cls
    path: KeyPath = ()
    allowed, owner = describe_type(cls), cls
    for part in location:
        annotation = _unwrap(annotation)
        if get_origin(annotation) in (Union, types.UnionType):
            member = _tagged_member(annotation, str(part))
            if member is None:
                return _Place(path, allowed, owner, is_choice=True)
            annotation = member
            continue
        if isinstance(annotation, type) and issubclass(annotation, Config):
            owner = annotation
            path = (*path, part)
            info = annotation.model_fields.get(str(part))
            if info is None:
                return _Place(path, allowed, owner)
            annotation, allowed = _chosen(info, document, path) or info.annotation, describe_field(info)
        elif get_origin(annotation) is tuple:
            items = get_args(annotation)
            path = (*path, part)
            index = 0 if items[-1] is Ellipsis else min(int(part), len(items) - 1)
            annotation, allowed = items[index], describe_type(items[index])
        else:
            break
    return _Place(path, allowed, owner)


def _chosen(info: FieldInfo, document: Document, path: KeyPath) -> type[Config] | None:
    """The class that the document's `type` chooses for a field of several."""
    variants = next((item for item in info.metadata if isinstance(item, Variants)), None)
    if variants is None:
        return None
    try:
        value = document.get(path)
    except (KeyError, IndexError, TypeError):
        value = None
    kind = value.get("type") if isinstance(value, dict) else None
    return variants.of(kind if isinstance(kind, str) else None)


def _unwrap(annotation: Any) -> Any:
    """The type inside Annotated and inside `X | None`, for which pydantic adds no tag."""
    if get_origin(annotation) is Annotated:
        return _unwrap(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return _unwrap(members[0])
    return annotation


def _tagged_member(union: Any, tag: str) -> Any:
    """The configuration class of a union that a location's tag stands for: its name or its `type`."""
    for member in get_args(union):
        member = _unwrap(member)
        if isinstance(member, type) and issubclass(member, Config):
            kind = member.model_fields.get("type")
            if tag == member.__name__ or (kind is not None and tag == kind.default):
                return member
    return None


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value)
    if len(text) > _VALUE_CHARACTERS:
        text = text[:_VALUE_CHARACTERS] + "..."
    return f"{text} ({type_name(value)})"


def dotted(path: KeyPath) -> str:
    """`("model", "stages", 0)` -> `"model.stages.0"`."""
    return ".".join(map(str, path))
