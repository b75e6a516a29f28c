"""Configuration machinery: the `Config` base, YAML files, overrides, error messages. Imports no model."""

from hnet.config.base import Allowed, Config
from hnet.config.library import config_names, find_config, library_root
from hnet.config.load import load_config, save_config

__all__ = ["Allowed", "Config", "config_names", "find_config", "library_root", "load_config", "save_config"]
