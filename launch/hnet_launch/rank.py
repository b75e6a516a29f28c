"""`python -m hnet_launch.rank MODULE ARGUMENTS`: what every tool starts as a rank, and what runs the module inside.

It gives the variables of Slurm and MPI the names that torch knows, reads secrets from a file, writes the rank's log,
puts `[host:rank]` before each line on the console, and says on the console how the rank ended, which a rank that was
killed cannot say itself and which the tools do not tell alike. It imports no torch.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from hnet_launch.events import TAIL_LINES, Ended, Started
from hnet_launch.job import LOGS, SECRETS
from hnet_launch.parent import die_with_parent

BAD_INPUT = 2
_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
_NAMES = {
    "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"),
    "LOCAL_WORLD_SIZE": ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"),
}


def torch_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE and so on from what MPI and Slurm set; empty where the tool has set them itself.

    Raises ValueError that names a variable which is nowhere to be found.
    """
    if "RANK" in environ:
        return {}
    found = {}
    for name, others in _NAMES.items():
        value = next((environ[other] for other in others if other in environ), None)
        if value is None and name != "LOCAL_WORLD_SIZE":
            raise ValueError(f"{name} is not set, nor is any of {', '.join(others)}: start ranks with `hnet launch`")
        if value is not None:
            found[name] = value
    if found["WORLD_SIZE"] != "1" and "MASTER_ADDR" not in environ:
        raise ValueError("MASTER_ADDR is not set, so ranks cannot meet: start ranks with `hnet launch`")
    return found


def main(argv: Sequence[str]) -> int:
    """Run a module as this rank; returns its exit code, or 128 plus the number of the signal that ended it."""
    host = socket.gethostname().partition(".")[0]
    try:
        environ = {**os.environ, **torch_variables(os.environ), "PYTHONUNBUFFERED": "1"}
        environ |= _secrets(environ.pop(SECRETS, None))
    except (ValueError, OSError) as error:
        print(f"error: host {host}: {error}", file=sys.stderr)
        return BAD_INPUT
    rank = int(environ.get("RANK", "0"))
    console = _Console(host, rank)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the module gets the terminal's Ctrl-C itself
    process = subprocess.Popen(
        [sys.executable, "-m", *argv],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_prepare_child,
    )
    _forward_signals(process)
    console.write(Started(host=host, rank=rank, pid=process.pid).to_line())
    assert process.stdout is not None
    tail: deque[bytes] = deque(maxlen=TAIL_LINES)
    reader = threading.Thread(
        target=_copy_lines, args=(process.stdout, _log_path(environ, host, rank), console, tail), daemon=True
    )
    reader.start()
    code = process.wait()
    # A grandchild that lives on may hold the pipe open: what the rank itself wrote is read long before.
    reader.join(timeout=5)
    lines = [line.decode(errors="replace").rstrip() for line in list(tail)]
    console.write(Ended(host=host, rank=rank, code=code, time=time.time(), tail=lines).to_line())
    return code if code >= 0 else 128 - code


class _Console:
    """Whole lines in one write each, so that those of several ranks do not mix."""

    def __init__(self, host: str, rank: int) -> None:
        self._prefix = f"[{host}:{rank}] ".encode()
        self._is_open = True

    def write(self, line: str) -> None:
        self.copy(line.encode() + b"\n")

    def copy(self, line: bytes) -> None:
        if not self._is_open:
            return
        try:
            os.write(sys.stdout.fileno(), self._prefix + line)
        except OSError:
            # Whoever read us is gone; the rank goes on, and its log has everything.
            self._is_open = False


def _copy_lines(source: BinaryIO, path: Path | None, console: _Console, tail: deque[bytes]) -> None:
    log = None
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            log = path.open("ab", buffering=0)
    except OSError as error:
        console.write(f"cannot write the log of this rank: {error}")
    for line in source:
        line = line if line.endswith(b"\n") else line + b"\n"
        # The frames of a traceback would push out what explains it.
        if line.strip() and not line.startswith((b" ", b"\t")):
            tail.append(line)
        console.copy(line)
        try:
            if log is not None:
                log.write(line)
        except OSError as error:
            # A full disk stops the log, not the training.
            log = None
            console.write(f"the log of this rank ends here: {error}")


def _log_path(environ: Mapping[str, str], host: str, rank: int) -> Path | None:
    folder = environ.get(LOGS)
    if folder is None:
        return None
    restarts = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return Path(folder + (f".{restarts}" if restarts != "0" else "")) / f"rank-{rank:05d}.{host}.log"


def _secrets(path: str | None) -> dict[str, str]:
    return {} if path is None else {str(name): str(value) for name, value in json.loads(Path(path).read_text()).items()}


def _prepare_child() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent(signal.SIGKILL)


def _forward_signals(process: "subprocess.Popen[bytes]") -> None:
    def forward(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    for number in _FORWARDED:
        signal.signal(number, forward)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
