"""What MFU is relative to: the arithmetic rate of one device, measured or by name."""

import logging
import statistics
import time

import torch

from hnet.errors import ConfigError
from hnet.training.gpus import GPUS

logger = logging.getLogger(__name__)


def peak_flops(setting: float | str, device: torch.device, precision: str) -> float:
    """FLOP/s of one device for `training.peak_flops`: a number, a name of `VENDOR_FLOPS`, or `measured`.

    Raises ConfigError for a name that is not in the table.
    """
    if isinstance(setting, (int, float)):
        return float(setting)
    if setting == "measured":
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        rate = measured_flops(device, dtype)
        logger.info("measured peak: %.1f GFLOP/s in %s on %s", rate / 1e9, dtype, device.type)
        return rate
    if setting.upper() not in GPUS:
        raise ConfigError(
            f"training.peak_flops {setting!r} is not known; allowed: 'measured', FLOP/s as a number, or one of "
            + ", ".join(GPUS)
        )
    return GPUS[setting.upper()].flops


def measured_flops(device: torch.device, dtype: torch.dtype, *, repeats: int = 7) -> float:
    """Median FLOP/s of square matrix products, 1024 wide on a CPU and 8192 wide elsewhere, after two to warm up."""
    size = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(repeats + 2):
        _finish(device)
        began = time.perf_counter()
        left @ right
        _finish(device)
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds[2:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
