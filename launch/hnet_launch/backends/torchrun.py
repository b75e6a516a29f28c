"""torchrun: all ranks of this machine, or this node's share of a job whose nodes meet at a rendezvous."""

from dataclasses import dataclass

from hnet_launch.cluster import ClusterConfig
from hnet_launch.job import RANK_MODULE, Command, Job, python_tool


@dataclass(frozen=True)
class TorchrunBackend:
    """One machine, or with an endpoint one node of several: then the same command runs on each of them."""

    cluster: ClusterConfig
    nodes: str = "1"
    """`N`, or `MIN:MAX` nodes where the job may go on with fewer."""
    endpoint: str | None = None
    """`host:port` at which the nodes meet; None: only this machine."""
    job_id: str = "hnet"
    max_restarts: int = 0
    """Restarts by torchrun itself, which nodes that share a rendezvous have to make together."""
    name: str = "torchrun"

    def command(self, job: Job) -> Command:
        """The same on every node."""
        argv = [python_tool("torchrun")]
        if self.endpoint is None:
            argv += ["--standalone"]
        else:
            argv += ["--nnodes", self.nodes, "--rdzv-backend", "c10d", "--rdzv-endpoint", self.endpoint]
            argv += ["--rdzv-id", self.job_id]
        argv += ["--nproc-per-node", str(self.cluster.gpus_per_node), "--max-restarts", str(self.max_restarts)]
        return Command((*argv, "-m", RANK_MODULE, *job.rank_arguments()), job.rank_environment())
