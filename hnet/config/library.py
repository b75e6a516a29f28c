"""The YAML files that ship with hnet: `configs/` in a checkout, the data package `hnet_configs` in a wheel."""

import difflib
from pathlib import Path

from hnet.errors import ConfigError


def library_root() -> Path:
    """The folder that holds `models/` and `runs/`.

    Found by path, not by import: it is data, and must be found in a checkout that nobody has installed.
    """
    above = Path(__file__).resolve().parents[2]
    for candidate in (above / "configs", above / "hnet_configs"):
        if (candidate / "models").is_dir():
            return candidate
    raise ConfigError(f"no folder of configurations beside {above / 'hnet'}: reinstall hnet-lm")


def config_names(folder: str) -> list[str]:
    """Names that `find_config(folder, name)` knows, sorted."""
    return sorted(path.stem for path in (library_root() / folder).glob("*.yaml"))


def find_config(folder: str, name: str) -> Path:
    """The file of a shipped configuration, such as `find_config("models", "hnet_1stage_L")`.

    Raises ConfigError that lists the names, nearest first, if there is none.
    """
    names = config_names(folder)
    if name in names:
        return library_root() / folder / f"{name}.yaml"
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
    raise ConfigError(f"no configuration '{name}' in configs/{folder}{hint} There are: {', '.join(names)}")
