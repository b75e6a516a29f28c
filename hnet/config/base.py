"""`Config`: the base of every configuration class."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Frozen, typed and closed: an unknown key or a wrong value is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)
