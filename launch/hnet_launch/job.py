"""What is to run on every rank (`Job`), and how a tool is told so (`Command`)."""

import json
import os
import shlex
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hnet.errors import UserError
from hnet_launch.arguments import DEFAULT_PORT
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import HIDDEN, Environment

RANK_MODULE = "hnet_launch.rank"
LOGS = "HNET_LAUNCH_LOGS"
SECRETS = "HNET_LAUNCH_SECRETS"


@dataclass(frozen=True)
class Job:
    """`python -m MODULE ARGUMENTS` on every rank."""

    module: str
    arguments: tuple[str, ...]
    environment: Environment
    folder: Path
    """Where files of the launch are written; every node sees it under this name."""
    logs: Path | None = None
    """Folder for one log per rank; None writes none."""
    port: int = DEFAULT_PORT
    """Where rank 0 listens; another one for every attempt, because the last one's may not be free yet."""

    def rank_arguments(self) -> list[str]:
        """What follows `python -m hnet_launch.rank`."""
        return [self.module, *self.arguments]

    def rank_environment(self) -> Environment:
        """The variables of every rank, with those for `hnet_launch.rank`."""
        return self.environment if self.logs is None else self.environment.with_variables(**{LOGS: str(self.logs)})


@dataclass(frozen=True)
class Command:
    """One command of one tool, the variables that it is given, and the files that it reads."""

    argv: tuple[str, ...]
    environment: Environment = field(default_factory=Environment)
    files: dict[Path, str] = field(default_factory=dict)
    """Texts to write first."""
    secret_files: dict[Path, str] = field(default_factory=dict, repr=False)
    """The same, readable by the user alone and removed afterwards."""
    stop_signal: signal.Signals = signal.SIGTERM
    """What makes the tool tell all ranks to save and stop."""

    def write_files(self) -> None:
        """Write what the command reads. Raises UserError, naming the file, where that is not possible."""
        try:
            for path, text in self.files.items():
                replace_text(path, text)
            for path, text in self.secret_files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            cause = f"cannot write {path}: {error.strerror or error}"
            raise UserError(f"{cause}; make room, or write elsewhere") from error

    def remove_secrets(self) -> None:
        """Remove the files that only the user could read."""
        for path in self.secret_files:
            path.unlink(missing_ok=True)

    def describe(self) -> str:
        """All of it as text, without secrets."""
        parts = [f"# file {path}\n{text.rstrip()}\n" for path, text in self.files.items()]
        parts += [f"# file {path}, for your eyes only\n{HIDDEN}\n" for path in self.secret_files]
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.variables.items()]
        variables += [f"{name}={HIDDEN}" for name in self.environment.secrets]
        parts += ["# environment\n" + "\n".join(variables) + "\n"] if variables else []
        parts += [f"# command\n{shlex.join(self.argv)}\n"] if self.argv else []
        return "\n".join(parts)


class Backend(Protocol):
    """A way to start ranks on a cluster."""

    @property
    def name(self) -> str:
        """As in messages and records."""
        ...

    @property
    def cluster(self) -> ClusterConfig:
        """Where it starts them."""
        ...

    def command(self, job: Job) -> Command:
        """The command that runs the job on every rank and ends when all ranks have. Raises UserError if it cannot."""
        ...


def replace_text(path: Path, text: str) -> None:
    """Write a file; whoever reads it meanwhile, and a crash, sees the old text or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def python_tool(name: str) -> str:
    """A command that belongs to our Python, such as `deepspeed`: beside the interpreter, else from PATH.

    Raises UserError if there is none.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise UserError(f"no command '{name}' beside {sys.executable} or on PATH; install it: pip install {name}")
    return found


def require_tool(name: str, remedy: str) -> None:
    """Raises UserError with the remedy unless the command is on PATH."""
    if shutil.which(name) is None:
        raise UserError(f"no command '{name}' on PATH; {remedy}")


def secrets_text(environment: Environment) -> str:
    """Secrets as the text of a file that `hnet_launch.rank` reads."""
    return json.dumps(environment.secrets)
