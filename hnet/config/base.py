"""`Config`: the base of every configuration class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Allowed:
    """Metadata of a field that takes more than its type says: what error messages call allowed."""

    text: str


@dataclass(frozen=True)
class Variants:
    """Metadata of a field that takes one of several classes, which its key `type` names."""

    of: Callable[[str | None], "type[Config] | None"]
    """The class of a type; of the default type for None; None for one that is not known."""


class Config(BaseModel):
    """Frozen, typed and closed: an unknown key or a wrong value is an error, never ignored."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    config_folder: ClassVar[str | None] = None
    """Folder of `configs/` whose files may stand for this class by name, such as `models`."""
