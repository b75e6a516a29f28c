"""Which variables of the launching shell every rank gets, and which of them nobody may read."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hnet.errors import ConfigError

ALLOWED_PREFIXES = ("HNET_", "NCCL_", "GLOO_", "TORCH", "CUDA", "HF_", "WANDB_")
ALLOWED_NAMES = ("DS_ACCELERATOR", "LD_LIBRARY_PATH", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "PATH", "PYTHONPATH")
OF_ONE_PROCESS = ("CUDA_VISIBLE_DEVICES", "TORCHELASTIC_", "HNET_LAUNCH_")
"""Said about the launching process itself, or by a launcher around it: wrong anywhere else."""

HIDDEN = "(hidden)"
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|AUTH|CREDENTIAL", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/@\s:]*:[^/@\s]+@")
"""A user and a password in an address."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Environment:
    """Variables of every rank. Secrets are kept apart: they are on no command line, in no log and in no dry run."""

    variables: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict, repr=False)

    def with_variables(self, **more: str) -> "Environment":
        """The same with more, or other, public variables."""
        return Environment({**self.variables, **more}, self.secrets)

    def all(self) -> dict[str, str]:
        """Public variables and secrets together: only for the environment of a process."""
        return {**self.variables, **self.secrets}


def is_secret(name: str, value: str) -> bool:
    """Whether a value is nobody's business: its name says so (HF_TOKEN, WANDB_API_KEY), or it holds a password."""
    return _SECRET.search(name) is not None or _LOGIN.search(value) is not None


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command line as it may be written down: the values of secrets that `--env` gives are hidden."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        option, _, rest = word.partition("=") if word.startswith("--env=") else ("", "", word)
        name, separator, value = rest.partition("=")
        if (option or before == "--env") and separator and is_secret(name, value):
            word = f"{option}={name}={HIDDEN}" if option else f"{name}={HIDDEN}"
        shown.append(_LOGIN.sub(f"://{HIDDEN}@", word))
    return shown


def collect(environ: Mapping[str, str], extra: Sequence[str] = ()) -> Environment:
    """The allowed variables of `environ`, and those of `extra`: `NAME`, taken from `environ`, or `NAME=VALUE`.

    Raises ConfigError for a name that is not one or is not set, and for a value with a line break, which the
    environment files of launchers cannot hold.
    """
    found = {name: value for name, value in environ.items() if _is_allowed(name)}
    for item in extra:
        name, separator, value = item.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"--env {name}: not the name of a variable; give NAME or NAME=VALUE")
        if not separator and name not in environ:
            raise ConfigError(f"--env {name}: the variable is not set here; set it, or give {name}=VALUE")
        found[name] = value if separator else environ[name]
    if "PYTHONPATH" in found:
        found["PYTHONPATH"] = os.pathsep.join(os.path.abspath(part) for part in found["PYTHONPATH"].split(os.pathsep))
    for name, value in found.items():
        if "\n" in value or "\r" in value:
            raise ConfigError(f"variable {name} has a line break, which launchers cannot pass on; unset it")
    return Environment(
        {name: found[name] for name in sorted(found) if not is_secret(name, found[name])},
        {name: found[name] for name in sorted(found) if is_secret(name, found[name])},
    )


def _is_allowed(name: str) -> bool:
    if name.startswith(OF_ONE_PROCESS):
        return False
    return name in ALLOWED_NAMES or name.startswith(ALLOWED_PREFIXES)
