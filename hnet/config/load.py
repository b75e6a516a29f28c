"""From YAML, overrides and names to a validated configuration, and back to YAML."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from hnet.config.base import Config
from hnet.config.document import Document, KeyPath, read_document, shown_path, write_yaml
from hnet.config.library import config_names, find_config
from hnet.config.messages import to_config_error
from hnet.config.overrides import apply_override, nearest_key, parse_override
from hnet.errors import ConfigError

C = TypeVar("C", bound=Config)


def load_config(cls: type[C], source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> C:
    """Read, override and validate a configuration.

    `source` is a YAML file, a mapping, or the name of a file in the class's folder of `configs/`. A field whose class
    has such a folder (`model`) may itself be a name, a path relative to the file that names it, or a mapping.
    `overrides` are `key.path=value`, applied in order; paths in them are relative to the working directory.
    Raises ConfigError that names file and line or override, what was given and what is allowed.
    """
    if isinstance(source, Mapping):
        document, folder = Document(_copy(source)), Path()
    else:
        path = _source_file(cls, str(source))
        document, folder = read_document(path), path.parent
    _resolve_references(cls, document, folder)
    for override in overrides:
        path_of_key, value = parse_override(override)
        apply_override(document, path_of_key, value, override)
        _resolve_references(cls, document, Path())
    try:
        return cls.model_validate(_freeze(document.tree), strict=True)
    except ValidationError as error:
        raise to_config_error(error, cls, document) from None


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved configuration; loading the file again gives an equal one."""
    write_yaml(config.model_dump(mode="json"), Path(path))


def _source_file(cls: type[Config], source: str) -> Path:
    path = Path(source).expanduser()
    if path.exists():
        return path
    if cls.config_folder is not None and _is_name(source):
        return find_config(cls.config_folder, source)
    near = sorted(item.name for item in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    nearest = nearest_key(path.name, near)
    shipped = f". Shipped by name: {', '.join(config_names(cls.config_folder))}" if cls.config_folder else ""
    hint = f"; did you mean {shown_path(path.parent / nearest)}?" if nearest else ""
    raise ConfigError(f"no such file: {source}{hint}{shipped}")


def _resolve_references(cls: type[Config], document: Document, folder: Path) -> None:
    """Put the file's mapping in the place of each name or path of a shipped kind of configuration."""
    for key, annotation in ((name, info.annotation) for name, info in cls.model_fields.items()):
        value = document.tree.get(key)
        if not (isinstance(annotation, type) and issubclass(annotation, Config) and annotation.config_folder):
            continue
        if isinstance(value, str):
            document.replace((key,), _read_reference(annotation.config_folder, value, folder, document, (key,)))


def _read_reference(kind: str, value: str, folder: Path, document: Document, key: KeyPath) -> Document:
    origin = document.origin(key)
    where = f"{origin}: " if origin else ""
    path = folder / Path(value).expanduser()
    try:
        if path.is_file() or not _is_name(value):
            return read_document(path)
        return read_document(find_config(kind, value))
    except ConfigError as error:
        raise ConfigError(f"{where}{'.'.join(map(str, key))}: {error}") from error


def _is_name(text: str) -> bool:
    return "/" not in text and not text.endswith((".yaml", ".yml"))


def _copy(value: Any) -> Any:
    """A tree that overrides may change: dicts and lists, with configurations as mappings."""
    if isinstance(value, Config):
        return _copy(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, (list, tuple)) else value


def _freeze(value: Any) -> Any:
    """Lists as tuples, which is what strict validation of a frozen configuration accepts."""
    if isinstance(value, dict):
        return {key: _freeze(item) for key, item in value.items()}
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
