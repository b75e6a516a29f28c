"""Hosts to try things on: `python -m tests.launch.hosts --slurm 4` gives a shell on node1 of four hosts."""

import argparse
import os
import tempfile
from pathlib import Path

from tests.launch.hosts.bed import SLURM_TOOLS, TOOLS, hosts, missing
from tests.launch.hosts.slurm import slurm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("num_hosts", type=int)
    parser.add_argument("--slurm", action="store_true", help="with slurmctld on node1 and slurmd on every host")
    parser.add_argument("--small-disk", metavar="SIZE", help="a shared file system of this size, such as 8m")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what runs on node1 (default: a shell)")
    arguments = parser.parse_args()
    reason = missing((*TOOLS, *SLURM_TOOLS) if arguments.slurm else TOOLS)
    if reason:
        parser.error(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with hosts(arguments.num_hosts, folder, small_disk=arguments.small_disk) as made:
            variables = {"HOSTFILE": str(made.hostfile(folder / "hostfile", arguments.num_hosts))}
            if arguments.slurm:
                variables |= slurm(made)
            return made[0].start(arguments.command or [os.environ.get("SHELL", "bash")], **variables).wait()


if __name__ == "__main__":
    raise SystemExit(main())
