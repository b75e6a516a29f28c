"""Hostfiles: `name slots=8` lines, as DeepSpeed and MPI read them."""

import difflib
import re
from pathlib import Path

from hnet.config.document import shown_path
from hnet.errors import ConfigError
from hnet_launch.cluster import HOST_NAME, ClusterConfig

_LINE = re.compile(r"(\S+)\s+slots=(\d+)(?:\s+#.*)?")
_FORM = "a line is `HOST slots=N`, such as `node1 slots=8`"


def read_hostfile(path: str | Path) -> ClusterConfig:
    """The hosts of a file, in its order; the rest of the cluster is left at its defaults.

    Raises ConfigError that names file and line for a wrong line, a host named twice, and unequal slots: DeepSpeed
    derives local ranks from the rank and the number of slots, which is only right where all hosts have as many.
    """
    path = Path(path).expanduser()
    shown = shown_path(path)
    slots: dict[str, tuple[int, int]] = {}
    for number, line in enumerate(_lines(path), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        host, count = _parse(text, f"{shown}:{number}")
        if host in slots:
            raise ConfigError(
                f"{shown}:{number}: host '{host}' is already on line {slots[host][1]}; give each host once"
            )
        slots[host] = (count, number)
    if not slots:
        raise ConfigError(f"{shown} names no host; {_FORM}")
    _check_equal(slots, shown)
    return ClusterConfig(nodes=len(slots), gpus_per_node=next(iter(slots.values()))[0], hosts=tuple(slots))


def write_hostfile(cluster: ClusterConfig) -> str:
    """The text of a hostfile for the cluster's hosts."""
    return "".join(f"{host} slots={cluster.gpus_per_node}\n" for host in cluster.hosts)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        near = sorted(item.name for item in path.parent.glob("*")) if path.parent.is_dir() else []
        nearest = difflib.get_close_matches(path.name, near, n=1)
        hint = f"; did you mean {shown_path(path.parent / nearest[0])}?" if nearest else ""
        raise ConfigError(f"no such hostfile: {shown_path(path)}{hint}") from error
    except OSError as error:
        raise ConfigError(f"cannot read hostfile {shown_path(path)}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"hostfile {shown_path(path)} is not text (byte {error.start}); {_FORM}") from error


def _parse(text: str, where: str) -> tuple[str, int]:
    match = _LINE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: got '{text}'; {_FORM}")
    host, count = match[1], int(match[2])
    if not HOST_NAME.fullmatch(host):
        remedy = "; a user name goes into the ssh configuration" if "@" in host else ""
        raise ConfigError(f"{where}: '{host}' is not the name or address of a host{remedy}")
    if count < 1:
        raise ConfigError(f"{where}: slots={count}; give at least 1, or leave the host out")
    return host, count


def _check_equal(slots: dict[str, tuple[int, int]], shown: str) -> None:
    first, (expected, _) = next(iter(slots.items()))
    for host, (count, number) in slots.items():
        if count != expected:
            raise ConfigError(
                f"{shown}:{number}: '{host}' has slots={count} and '{first}' slots={expected}; every host must have "
                f"as many, for example {min(count, expected)}"
            )
