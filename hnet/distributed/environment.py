"""What the launcher told this process through the environment: ranks, and who started it. Imports no torch."""

import os

_DEEPSPEED_ONLY = ("CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE")
"""Set for every worker by the `deepspeed` launcher and by no other."""


def world_size() -> int:
    """Processes in the job: WORLD_SIZE of torchrun, accelerate and deepspeed; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_by_deepspeed() -> bool:
    """Whether the `deepspeed` command started this process."""
    return all(name in os.environ for name in _DEEPSPEED_ONLY)


def set_defaults(**variables: str) -> None:
    """Set launch variables that nobody has set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
