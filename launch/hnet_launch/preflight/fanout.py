"""One command on every node of a job, through the tool that will start it: pdsh, mpirun, srun; none for one machine."""

import ipaddress
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hnet_launch.backends.deepspeed import DeepSpeedBackend
from hnet_launch.backends.srun import SrunBackend, allocated_hosts
from hnet_launch.backends.torchrun import TorchrunBackend
from hnet_launch.job import Backend, Job, require_tool


def hosts_of(backend: Backend) -> tuple[str, ...]:
    """Names of the nodes that are checked from here, the first one first; none where only this machine is."""
    if isinstance(backend, SrunBackend):
        return allocated_hosts()
    if isinstance(backend, DeepSpeedBackend) and starts_all_nodes(backend) and not backend.is_here:
        return backend.cluster.hosts
    return ()


def starts_all_nodes(backend: Backend) -> bool:
    """Whether the job is started from here alone. Where every node starts its own share, each checks itself."""
    if isinstance(backend, DeepSpeedBackend):
        return backend.node_rank is None
    return not isinstance(backend, TorchrunBackend) or backend.endpoint is None


def on_every_node(argv: Sequence[str], job: Job, backend: Backend, seconds: float) -> dict[str, str]:
    """What the command printed by host. Its last argument, which is added here, is the number of the node.

    Raises UserError if the tool is missing.
    """
    hosts = hosts_of(backend)
    if not hosts:
        environment = {**os.environ, **job.environment.all()}
        return {"localhost": captured([*argv, "0"], environment, Path.cwd(), seconds)}
    if isinstance(backend, SrunBackend):
        return _over_srun(argv, hosts, job, seconds)
    if isinstance(backend, DeepSpeedBackend) and backend.launcher == "openmpi":
        return _over_mpi(argv, hosts, job, backend.launcher_arguments, seconds)
    return _over_pdsh(argv, hosts, job, seconds)


def _over_srun(argv: Sequence[str], hosts: Sequence[str], job: Job, seconds: float) -> dict[str, str]:
    number = len(hosts)
    command = ["srun", "--label", f"--nodes={number}", f"--ntasks={number}", "--ntasks-per-node=1", *argv]
    output = captured(command, {**os.environ, **job.environment.all()}, Path.cwd(), seconds)
    return _by_host(output, {str(node): host for node, host in enumerate(hosts)})


def _over_mpi(argv: Sequence[str], hosts: Sequence[str], job: Job, options: str, seconds: float) -> dict[str, str]:
    """One process a node; its number is the rank that Open MPI gives it."""
    require_tool("mpirun", "install Open MPI on every host, such as: apt-get install openmpi-bin")
    names = [word for name in job.environment.all() for word in ("-x", name)]
    placed = ["--host", ",".join(hosts), "-n", str(len(hosts)), "--tag-output", "--bind-to", "none"]
    command = ["mpirun", *placed, *names, *shlex.split(options), *argv]
    output = captured(command, {**os.environ, **job.environment.all()}, Path.cwd(), seconds)
    # A line is "[1,NODE]<stdout>:text".
    lines = re.sub(r"^\[\d+,(\d+)\]<std\w+>:", r"\1: ", output, flags=re.MULTILINE)
    return _by_host(lines, {str(node): host for node, host in enumerate(hosts)})


def _over_pdsh(argv: Sequence[str], hosts: Sequence[str], job: Job, seconds: float) -> dict[str, str]:
    """pdsh puts the number of the host in place of %n."""
    require_tool("pdsh", "install it here (apt-get install pdsh), or leave the checks out with --no-preflight")
    exports = [f"export {name}={shlex.quote(value)};" for name, value in job.environment.variables.items()]
    remote = " ".join([*exports, f"cd {shlex.quote(os.getcwd())};", shlex.join(argv)]).replace("%", "%%")
    limits = f"{os.environ.get('PDSH_SSH_ARGS_APPEND', '')} -o BatchMode=yes -o ConnectTimeout=15".strip()
    command = ["pdsh", "-R", "ssh", "-f", str(len(hosts)), "-w", ",".join(hosts), f"{remote} %n"]
    output = captured(command, {**os.environ, "PDSH_SSH_ARGS_APPEND": limits}, Path.cwd(), seconds)
    # "pdsh@here: host: text" is what pdsh itself says about a host.
    lines = [re.sub(r"^pdsh@[^:]+: ", "", line) for line in output.splitlines()]
    return _by_host("\n".join(lines), _labels_of_pdsh(hosts))


def _labels_of_pdsh(hosts: Sequence[str]) -> dict[str, str]:
    """Hosts by the names that pdsh may print: it leaves out a domain that all of them share."""
    labels = {host: host for host in hosts}
    domains = {host.partition(".")[2] for host in hosts}
    if len(domains) == 1 and domains != {""} and not any(_is_address(host) for host in hosts):
        labels |= {host.partition(".")[0]: host for host in hosts}
    return labels


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _by_host(output: str, hosts: Mapping[str, str]) -> dict[str, str]:
    """`label: text` lines sorted by host; `hosts` maps labels to them. Other lines are the tool's and go to all."""
    texts: dict[str, list[str]] = {host: [] for host in dict.fromkeys(hosts.values())}
    for line in output.splitlines():
        label, separator, text = line.strip().partition(": ")
        for host in [hosts[label]] if separator and label in hosts else texts:
            texts[host].append(text if separator and label in hosts else line)
    return {host: "\n".join(lines) for host, lines in texts.items()}


def captured(command: Sequence[str], environment: Mapping[str, str], folder: Path, seconds: float) -> str:
    """Both outputs of a command that is ended when the seconds are over."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
        cwd=folder,
        text=True,
        errors="replace",
    )
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        return f"{_end(process)}\nnot done after {seconds:g} s"
    except BaseException:
        # We were asked to stop: what runs on other nodes must not go on without us.
        _end(process)
        raise


def _end(process: "subprocess.Popen[str]") -> str:
    """End a process, gently first; returns its output."""
    process.terminate()
    try:
        return process.communicate(timeout=10)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[0]
