"""Keep glibc from giving the memory of large tensors back to the kernel after every operation.

By default malloc maps blocks above 32 MiB at most (dynamic threshold) anew for each tensor, and every page of such
a block is zeroed by the kernel on first touch; on a CPU that page-faulting costs more than many of the operations.
"""

import ctypes
import functools
import logging
import sys

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let malloc reuse freed blocks of up to 2 GiB instead of unmapping them. Returns whether the C library did so.

    Does nothing and returns False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    done = bool(libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST))
    logger.info("malloc %s freed memory for reuse", "keeps" if done else "could not be told to keep")
    return done
