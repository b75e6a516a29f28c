"""What `hnet_launch.rank` says on the console about its rank, for `hnet launch` to read."""

import json
import re
import signal
from dataclasses import asdict, dataclass, field

MARK = "hnet-rank"
TAIL_LINES = 12
_LINE_CHARACTERS = 500
_TAIL_CHARACTERS = 2500
"""A line stays below the 4096 bytes that a pipe takes in one piece."""

_LINE = re.compile(rf"{MARK} (started|ended) (\{{.*\}})")


@dataclass(frozen=True)
class Started:
    """A rank has begun."""

    host: str
    rank: int
    pid: int

    def to_line(self) -> str:
        """The event as a line of text."""
        return f"{MARK} started {json.dumps(asdict(self))}"


@dataclass(frozen=True)
class Ended:
    """A rank has ended: with an exit code of at least 0, or by signal `-code`."""

    host: str
    rank: int
    code: int
    time: float
    """Seconds since the epoch, by the host's own clock."""
    tail: list[str] = field(default_factory=list)
    """Last lines of its log."""

    def to_line(self) -> str:
        """The event as a line of text, with as much of the tail as fits."""
        tail: list[str] = []
        room = _TAIL_CHARACTERS
        for line in (line[:_LINE_CHARACTERS] for line in reversed(self.tail)):
            room -= len(json.dumps(line))
            if room < 0:
                break
            tail.insert(0, line)
        return f"{MARK} ended {json.dumps({**asdict(self), 'tail': tail})}"

    @property
    def how(self) -> str:
        """`exited with code 1`, `was killed by SIGKILL`."""
        if self.code >= 0:
            return f"exited with code {self.code}"
        name = signal.Signals(-self.code).name
        hint = "; if nobody did it, the kernel did: out of memory" if self.code == -signal.SIGKILL else ""
        return f"was killed by {name}{hint}"


def parse_event(line: str) -> Started | Ended | None:
    """The event in a line of the console; None for any other line."""
    match = _LINE.search(line)
    if match is None:
        return None
    try:
        fields = json.loads(match[2])
        return Started(**fields) if match[1] == "started" else Ended(**fields)
    except (ValueError, TypeError):
        # Two ranks wrote at the same moment, or a rank printed such a line: it is text like any other.
        return None
