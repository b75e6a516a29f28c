"""SIGTERM becomes a flag: a scheduler that takes the machine back lets the current step finish and be saved."""

import signal
import threading
from types import FrameType


class StopSignal:
    """Context manager that catches SIGTERM; `requested` says whether one came.

    Outside the main thread, where Python cannot catch signals, it never is.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._is_installed = threading.current_thread() is threading.main_thread()
        if self._is_installed:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
