"""Configuration machinery: the `Config` base, YAML files, overrides, error messages. Imports no model."""

from hnet.config.base import Config

__all__ = ["Config"]
