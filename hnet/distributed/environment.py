"""What the launcher told this process through the environment: ranks, and who started it. Imports no torch."""

import os
import socket

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


def deepspeed_stage() -> int | None:
    """The ZeRO stage that the launcher asks for: 1 under the `deepspeed` command, which does not say, the one given to
    `accelerate launch --use_deepspeed`, and None under every other launcher."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "1"))
    return 1 if all(name in os.environ for name in _DEEPSPEED_ONLY) else None


def set_rank_defaults() -> None:
    """Let a process that no launcher has started be rank 0 of 1: some engines want a process group all the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    set_defaults(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def set_defaults(**variables: str) -> None:
    """Set launch variables that nobody has set."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
