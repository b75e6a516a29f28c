"""DeepSpeed's own runner on the hosts of a cluster: over pdsh, MPI, or one node at a time."""

import os
import re
import signal
import socket
from dataclasses import dataclass

from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment
from hnet_launch.hostfile import write_hostfile
from hnet_launch.job import RANK_MODULE, SECRETS, Command, Job, python_tool, require_tool, secrets_text

_KEEP_ALIVE = "-o ServerAliveInterval=15 -o ServerAliveCountMax=4 -o BatchMode=yes"
"""A connection to a host that is gone is told after a minute, and no password is waited for."""
_SPECIAL = re.compile(r"([\"\\$`])")
"""What a shell changes between double quotes."""


@dataclass(frozen=True)
class DeepSpeedBackend:
    """`deepspeed --hostfile`.

    pdsh and openssh are the same: DeepSpeed reaches hosts over OpenSSH through pdsh and has no other ssh launcher.
    With `node_rank` only that node's ranks are started, here, for tools that log in to every node themselves.
    """

    cluster: ClusterConfig
    launcher: str = "pdsh"
    launcher_arguments: str = ""
    master_address: str | None = None
    node_rank: int | None = None
    name: str = "deepspeed"

    def command(self, job: Job) -> Command:
        """Raises UserError if pdsh or MPI is missing."""
        if self.node_rank is None and not self.is_here:
            self._require_launcher()
        hostfile = job.folder / "hostfile"
        argv = [python_tool("deepspeed"), "--hostfile", str(hostfile), "--master_port", str(job.port)]
        address = self.master_address or self._default_address()
        argv += ["--master_addr", address] if address else []
        environment, secrets = job.rank_environment(), {}
        if self.node_rank is not None:
            argv += ["--no_ssh", "--node_rank", str(self.node_rank)]
        elif self.launcher == "openmpi":
            environment = environment.with_variables(MASTER_ADDR=address or "", MASTER_PORT=str(job.port))
            argv += ["--launcher", "openmpi", f"--launcher_args={self._mpi_arguments(environment)}"]
        elif self.is_here:
            # DeepSpeed would ask even this machine over ssh.
            argv += ["--no_ssh_check"]
        else:
            argv += ["--launcher", "pdsh", f"--launcher_args={f'-N {self.launcher_arguments}'.strip()}"]
            # A single host would be taken for this machine.
            argv += ["--force_multi"] if self.cluster.nodes == 1 else []
            if environment.secrets:
                secrets = {job.folder / "secrets.json": secrets_text(environment)}
                environment = environment.with_variables(**{SECRETS: str(job.folder / "secrets.json")})
        files = {hostfile: write_hostfile(self.cluster)}
        if self._uses_pdsh:
            files[job.folder / "deepspeed_env"] = _environment_file(environment)
            environment = environment.with_variables(
                DS_ENV_FILE=str(job.folder / "deepspeed_env"),
                PDSH_SSH_ARGS_APPEND=f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} {_KEEP_ALIVE}".strip(),
            )
        argv += ["--no_local_rank", "--module", RANK_MODULE, *job.rank_arguments()]
        # mpirun passes SIGUSR1 on to the ranks and takes SIGTERM as the order to kill them.
        stop = signal.SIGUSR1 if self.launcher == "openmpi" and self.node_rank is None else signal.SIGTERM
        return Command(tuple(argv), environment, files, secrets, stop)

    @property
    def _uses_pdsh(self) -> bool:
        return self.node_rank is None and self.launcher != "openmpi" and not self.is_here

    @property
    def is_here(self) -> bool:
        """Whether the only host is this machine, which needs no remote shell."""
        names = {"localhost", "127.0.0.1", socket.gethostname(), socket.gethostname().partition(".")[0]}
        return self.launcher != "openmpi" and self.cluster.nodes == 1 and self.cluster.hosts[0] in names

    def _default_address(self) -> str | None:
        """None leaves the choice to DeepSpeed, which asks the first host for its address."""
        if self.is_here:
            return "127.0.0.1"
        return self.cluster.hosts[0] if self.node_rank is not None or self.launcher == "openmpi" else None

    def _require_launcher(self) -> None:
        if self.launcher == "openmpi":
            require_tool("ompi_info", "install Open MPI on every host, such as: apt-get install openmpi-bin")
        else:
            require_tool(
                "pdsh",
                "install it here, such as: apt-get install pdsh (the other hosts need only sshd). Or use --launcher "
                "openmpi. Or run on every host, with a tool of yours: hnet launch RUN.yaml --hostfile HOSTS "
                "--node-rank 0, 1, 2 ...",
            )

    def _mpi_arguments(self, environment: Environment) -> str:
        """Names only: mpirun takes the values from its own environment, so that none is on a command line."""
        names = [f"-x {name}" for name in environment.all()]
        # Open MPI would pin each rank, with all its threads, to one core.
        return " ".join(["--bind-to none", *names, self.launcher_arguments]).strip()


def _environment_file(environment: Environment) -> str:
    """What DeepSpeed exports on every host. It puts a value that a shell would change in double quotes."""
    quoted = {name: _SPECIAL.sub(r"\\\1", value) for name, value in environment.variables.items()}
    return "".join(f"{name}={value}\n" for name, value in quoted.items())
