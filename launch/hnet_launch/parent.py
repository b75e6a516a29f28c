"""Children that do not outlive their parent, also where it was killed."""

import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: signal.Signals) -> None:
    """Have Linux send this signal to the calling process when its parent is gone. For `preexec_fn`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number))
