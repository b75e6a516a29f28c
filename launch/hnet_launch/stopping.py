"""Signals that ask the launcher to stop, caught from its beginning to its end."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopRequested(BaseException):
    """What a signal raises where we wait for something; no error, so nothing that handles errors takes it."""


class StopRequests:
    """While entered, a signal does what the part that runs wants of it, and is remembered between such parts.

    Without that, one that comes before the ranks are started, or between two attempts, would kill the launcher, and a
    job of Slurm would not go back into the queue.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the last signal."""
        self._action: Callable[[int], None] | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._receive) for number in STOPPING}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if self._action is not None:
            self._action(number)

    @contextlib.contextmanager
    def passed_to(self, action: Callable[[int], None]) -> Iterator[None]:
        """Every signal calls `action`; one that came before does so now."""
        self._action = action
        try:
            if self.number is not None:
                action(self.number)
            yield
        finally:
            self._action = None

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """A signal ends what is inside. One that came before does not: look at `number`, inside."""
        self._action = _interrupt
        try:
            yield
        except StopRequested:
            pass
        finally:
            self._action = None


def _interrupt(_number: int) -> None:
    raise StopRequested
