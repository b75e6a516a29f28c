"""A process group on one machine, for tests and small jobs without a launcher."""

import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist


@contextlib.contextmanager
def local_group(rank: int, world_size: int, store: Path, *, timeout: float) -> Iterator[None]:
    """Join `world_size` processes that meet at the file `store`, over gloo; leave at the end.

    Sets the variables that a launcher would set, so that code which reads them sees the same ranks.
    A collective that waits longer than `timeout` seconds is an error.
    """
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT="0"
    )
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout)
    )
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
