"""One attempt: a command runs to its end, its output goes to the console and a file, and what ranks said is kept."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, TextIO

from hnet_launch.events import Ended, Started, parse_event
from hnet_launch.job import Command
from hnet_launch.parent import die_with_parent
from hnet_launch.stopping import StopRequests

LAUNCHER_LOG = "launcher.log"
_CONSEQUENCES = (
    *("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited"),
    *("no sign of life of", "held up by", "does not answer", "DistBackendError", "Gloo", "gloo"),
)
"""What a rank says because another one is gone, or does not move."""
_LAST_WORDS = 12


@dataclass
class AttemptResult:
    """How a command ended, and its ranks."""

    code: int = 0
    """Of the tool; negative: ended by a signal."""
    seconds: float = 0.0
    started: dict[int, Started] = field(default_factory=dict)
    ended: dict[int, Ended] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    """The last lines that no rank wrote: the tool's."""
    stop_signal: int | None = None
    """The signal with which we were asked to stop, if we were."""

    @property
    def root(self) -> Ended | None:
        """The rank that failed first, as far as hosts' clocks can tell; None if no rank is known to have failed.

        A rank that lost its connection to another one is only taken where there is no better explanation.
        """
        failed = [rank for rank in self.ended.values() if rank.code]
        return min(failed, key=lambda rank: (_is_consequence(rank), rank.time), default=None)

    @property
    def silent(self) -> list[Started]:
        """Ranks that began and of which nothing was heard at the end: killed with their host, or cut off."""
        return [event for rank, event in sorted(self.started.items()) if rank not in self.ended]

    @property
    def is_bad_input(self) -> bool:
        """Whether starting again cannot help, because a rank refused its input."""
        return self.root.code == 2 if self.root else self.code == 2


def _is_consequence(rank: Ended) -> bool:
    return any(words in line for line in rank.tail for words in _CONSEQUENCES)


def run_attempt(
    command: Command, folder: Path, console: TextIO | None = None, requests: StopRequests | None = None
) -> AttemptResult:
    """Run a command to its end. Its output goes to `console` (default: our stdout) and to `folder/launcher.log`.

    SIGINT, SIGTERM, SIGUSR1 and SIGHUP that we get make the ranks save and stop; a second one is the tool's own way,
    and a second SIGINT or SIGTERM ends the tool. `requests` is who catches them; without one, they are caught here.
    """
    if requests is None:
        with StopRequests() as requests:
            return run_attempt(command, folder, console, requests)
    command.write_files()
    result, begin = AttemptResult(), time.monotonic()
    try:
        process = subprocess.Popen(
            command.argv,
            env={**os.environ, **command.environment.all()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # The terminal's Ctrl-C is for us: tools take it as the order to kill.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        assert process.stdout is not None
        with requests.passed_to(_stopper(process, command.stop_signal, result)), _log(folder) as log:
            _follow(process.stdout, log, console or sys.stdout, result)
            result.code = process.wait()
    finally:
        command.remove_secrets()
    result.seconds = time.monotonic() - begin
    return result


def _log(folder: Path) -> BinaryIO:
    """Where everything goes that the console shows; nowhere if the disk is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return (folder / LAUNCHER_LOG).open("ab")
    except OSError as error:
        print(f"hnet launch: no {folder / LAUNCHER_LOG}: {error.strerror or error}", file=sys.stderr, flush=True)
        return open(os.devnull, "wb")


def _follow(output: IO[bytes], log: BinaryIO, console: TextIO, result: AttemptResult) -> None:
    for line in output:
        text = line.decode(errors="replace").rstrip("\n")
        event = parse_event(text)
        if isinstance(event, Started):
            result.started[event.rank] = event
            result.ended.pop(event.rank, None)
        elif isinstance(event, Ended):
            result.ended[event.rank] = event
        else:
            print(text, file=console, flush=True)
            if not text.startswith("["):
                result.words = [*result.words[1 - _LAST_WORDS :], text]
        try:
            log.write(line)
            log.flush()
        except OSError:
            # The disk is full: the console and the ranks' own messages have to do.
            continue


def _ranks_here(result: AttemptResult) -> list[Started]:
    """Running ranks of this machine. Told by us, they have all the time they need to save, and the others stop with
    them; torchrun and DeepSpeed would kill them after 30 s."""
    host = socket.gethostname().partition(".")[0]
    running = [event for rank, event in result.started.items() if rank not in result.ended]
    return [event for event in running if event.host == host and Path(f"/proc/{event.pid}").exists()]


def _stopper(
    process: "subprocess.Popen[bytes]", stop_signal: signal.Signals, result: AttemptResult
) -> Callable[[int], None]:
    """What a signal does while the process runs."""

    def stop(number: int) -> None:
        is_first = result.stop_signal is None
        here = _ranks_here(result) if is_first else []
        if is_first:
            print(f"hnet launch: {signal.Signals(number).name}: all ranks save and stop", file=sys.stderr, flush=True)
        result.stop_signal = number
        for event in here:
            with contextlib.suppress(ProcessLookupError):
                os.kill(event.pid, signal.SIGUSR1)
        if not here:
            # srun and mpirun end on SIGTERM only. Slurm itself may repeat SIGUSR1, and means the same.
            ends = not is_first and number in (signal.SIGINT, signal.SIGTERM)
            process.send_signal(signal.SIGTERM if ends else stop_signal)

    return stop
