"""SIGTERM and SIGUSR1 become a flag: a scheduler that takes the machine back lets the step finish and be saved."""

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send some time before they kill: Kubernetes and the clouds the first, Slurm what its `--signal` says,
for which the second is customary."""


class StopSignal:
    """Context manager that catches `SIGNALS`; `requested` says whether one came.

    Outside the main thread, where Python cannot catch signals, it never is.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._previous = {}
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True
