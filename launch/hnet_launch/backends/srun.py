"""srun: one task a rank, inside an allocation of Slurm."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from hnet.errors import UserError
from hnet_launch.cluster import ClusterConfig
from hnet_launch.job import RANK_MODULE, Command, Job, require_tool


@dataclass(frozen=True)
class SrunBackend:
    """One step over all nodes of the allocation."""

    cluster: ClusterConfig
    cpus_per_task: int | None = None
    name: str = "srun"

    def command(self, job: Job) -> Command:
        """Raises UserError outside an allocation."""
        argv = ["srun", "--kill-on-bad-exit=1", "--unbuffered", f"--nodes={self.cluster.nodes}"]
        argv += [f"--ntasks={self.cluster.world_size}", f"--ntasks-per-node={self.cluster.gpus_per_node}"]
        argv += [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []
        environment = job.rank_environment().with_variables(MASTER_ADDR=first_host(), MASTER_PORT=str(job.port))
        argv += [sys.executable, "-m", RANK_MODULE, *job.rank_arguments()]
        # srun passes SIGUSR1 on to the ranks; on SIGTERM it would kill them.
        return Command(tuple(argv), environment, stop_signal=signal.SIGUSR1)


def first_host() -> str:
    """Where rank 0 runs. Raises UserError outside an allocation."""
    return allocated_hosts()[0]


def allocated_hosts() -> tuple[str, ...]:
    """The nodes of the allocation, in the order of their tasks. Raises UserError outside an allocation."""
    hosts = os.environ.get("SLURM_JOB_NODELIST")
    if not hosts:
        raise UserError("--srun: this is no allocation of Slurm; give --slurm to submit a job, or run it under salloc")
    require_tool("scontrol", "it comes with Slurm")
    listing = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, check=False)
    if listing.returncode or not listing.stdout.split():
        raise UserError(f"scontrol does not know the hosts '{hosts}': {listing.stderr.strip()}")
    return tuple(listing.stdout.split())
