"""YAML in and out: plain data that remembers the file and line of every key."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hnet.errors import ConfigError

KeyPath = tuple[str | int, ...]
"""Where a value stands: `("model", "stages", 0, "d_model")`."""

_EXPONENT = r"[eE][-+]?[0-9]+"
_FLOAT = re.compile(
    rf"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:{_EXPONENT})?|\.[0-9]+(?:{_EXPONENT})?|[0-9][0-9_]*{_EXPONENT})$"
)
_MAX_VALUES = 100_000
"""More values than any configuration has: a file of nested aliases is refused before it fills the memory."""


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers and booleans of YAML 1.2: `1e-3` is a number, `on` and `no` are text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML declares it so)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<$"), ["<"])


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would otherwise read as a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # Only double quotes escape the line breaks of Unicode, which YAML would otherwise fold into spaces.
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass
class Document:
    """A tree of dicts, lists and scalars, and where each part of it was written."""

    tree: Any
    origins: dict[KeyPath, str] = field(default_factory=dict)
    """`file:line` or the override that set the value at a path."""

    def origin(self, path: KeyPath) -> str:
        """Where the value at `path`, or the nearest part around it, was written; empty if unknown."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return ""

    def get(self, path: KeyPath) -> Any:
        """The value at `path`. Raises KeyError, IndexError or TypeError where there is none."""
        value = self.tree
        for key in path:
            value = value[key]
        return value

    def replace(self, path: KeyPath, other: "Document") -> None:
        """Put `other` in the place of the value at `path`."""
        for known in [known for known in self.origins if known[: len(path)] == path and known != path]:
            del self.origins[known]
        self.origins.update({path + below: origin for below, origin in other.origins.items()})
        if path:
            self.get(path[:-1])[path[-1]] = other.tree
        else:
            self.tree = other.tree


def read_document(path: Path) -> Document:
    """The YAML mapping of a file. Raises ConfigError that names file and line for anything else."""
    shown = shown_path(path)
    if path.is_dir():
        inside = path / "config.yaml"
        hint = f"; did you mean {shown_path(inside)}?" if inside.is_file() else "; give a YAML file"
        raise ConfigError(f"{shown} is a folder{hint}")
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {shown}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown} is not UTF-8 text (byte {error.start}); give a YAML file") from error
    document = parse_document(text, shown)
    if not isinstance(document.tree, dict):
        found = "is empty" if document.tree is None else f"holds {type_name(document.tree)}"
        raise ConfigError(f"{shown} {found}; a configuration file is a mapping of `key: value` lines")
    return document


def parse_document(text: str, name: str) -> Document:
    """Parse YAML text; `name` is the file in messages. Duplicate keys and keys that are not text are errors."""
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        document = Document(None, {(): name})
        if root is not None:
            document.tree = _construct(loader, root, (), document.origins, name)
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"{where}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {str(error).splitlines()[0]}") from error
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str) -> Any:
    """A single YAML value, as on the command line. Raises ConfigError if it is not YAML."""
    return parse_document(text, "value").tree


def _construct(loader: _Loader, node: yaml.Node, path: KeyPath, origins: dict[KeyPath, str], name: str) -> Any:
    origins.setdefault(path, f"{name}:{node.start_mark.line + 1}")
    if len(origins) > _MAX_VALUES or len(path) > 50:
        raise ConfigError(f"{name}: too large or too deeply nested for a configuration file")
    if node.tag not in _PLAIN_TAGS:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: tag {tag} is not allowed; only plain values are")
    if isinstance(node, yaml.MappingNode):
        return dict(_items(loader, node, path, origins, name))
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, index), origins, name) for index, item in enumerate(node.value)]
    try:
        return loader.construct_object(node)
    except (ValueError, KeyError) as error:
        # Only an explicit tag, such as `!!int x`, brings a text here that its kind does not fit.
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: {node.value!r} does not fit its tag") from error


def _items(
    loader: _Loader, node: yaml.MappingNode, path: KeyPath, origins: dict[KeyPath, str], name: str
) -> Iterator[tuple[str, Any]]:
    lines: dict[str, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in _KEY_TAGS:
            raise ConfigError(f"{name}:{line}: a key must be text; put it in quotes if it is meant")
        if key_node.value in lines:
            raise ConfigError(f"{name}:{line}: key '{key_node.value}' is already set on line {lines[key_node.value]}")
        lines[key_node.value] = line
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = key_node.value
        # The key's line, not its value's: a nested mapping starts one line below its key.
        origins[(*path, key)] = f"{name}:{key_node.start_mark.line + 1}"
        yield key, _construct(loader, value_node, (*path, key), origins, name)


_KEY_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null"))


def yaml_text(tree: Mapping[str, Any]) -> str:
    """A mapping as YAML that `read_document` reads back as it was."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))


def write_yaml(tree: Mapping[str, Any], path: Path) -> None:
    """Write a mapping as YAML; a crash leaves either the old file or the whole new one."""
    text = yaml_text(tree)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def shown_path(path: Path) -> str:
    """A path as a user would type it: relative where that is shorter."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def type_name(value: Any) -> str:
    """What a YAML value is, in words."""
    names = {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        dict: "a mapping",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)
