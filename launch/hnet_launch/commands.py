"""The commands that `hnet` has because this package is installed. Imports nothing that they do not all need."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from hnet_launch.arguments import add_arguments
from hnet_launch.plan import command as plan


@dataclass(frozen=True)
class CliCommand:
    """One command on a run: it takes RUN.yaml and overrides, and what `add_arguments` adds."""

    name: str
    help: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


def _launch(arguments: argparse.Namespace) -> None:
    from hnet_launch.cli_launch import run

    run(arguments)


COMMANDS = (
    CliCommand(
        "launch",
        "train on a cluster or on all devices here; go on from the last checkpoint when a worker dies",
        "hnet launch run.yaml --hostfile hosts --dry-run\n"
        "  hnet launch run.yaml --slurm --nodes 4 --gpus-per-node 8 --time 24:00:00",
        add_arguments,
        _launch,
    ),
    CliCommand(
        "plan",
        "memory per GPU, communication, time and energy of a run before it starts; needs no GPU",
        "hnet plan fineweb_edu model=hnet_2stage_XL --nodes 8 --gpus-per-node 8 --gpu H100",
        plan.add_arguments,
        plan.run,
    ),
)
