"""Peak memory of a stretch of work."""

import importlib
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class PeakMemory:
    """Growth of memory since this object was made: allocated on an accelerator, resident on a CPU.

    On a CPU the peak is the kernel's own (`VmHWM`), so no moment between two looks is missed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        else:
            # Optimizers import it at first use, and it brings much code: that is not memory of the work.
            importlib.import_module("torch._dynamo")
            self._peak_is_ours = _reset_peak()
            self._before = _status_bytes("VmRSS") or 0

    def growth(self) -> int | None:
        """Bytes; None where the system does not tell a process's own peak."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._before
        peak = _status_bytes("VmHWM") if self._peak_is_ours else None
        return None if peak is None else peak - self._before


def _reset_peak() -> bool:
    """Linux: 5 sets the peak to what is resident now."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int | None:
    if not _STATUS.is_file():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
