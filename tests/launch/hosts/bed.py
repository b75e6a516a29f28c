"""Hosts on one machine: namespaces on a bridge, each with its own name, network, processes and sshd. Needs root.

Nothing outside is touched: the bridge lies in a namespace of its own, `/etc/ssh` and `/etc/hosts` are covered only
inside a host. Every process of every host is a descendant of one holder, which ends when its standard input closes; so
nothing is left behind, even if whoever made the hosts is killed.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TOOLS = ("ip", "nsenter", "pdsh", "ssh", "ssh-keygen", "sshd", "unshare")
SLURM_TOOLS = ("munged", "sbatch", "scontrol", "slurmctld", "slurmd")
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
_NETWORK = "10.77.0"

_HOLD = "read -r _"
"""A namespace's first process. bash, because it collects the exit status of orphans."""

_SSH = """
Host *
  User root
  IdentityFile /etc/ssh/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ServerAliveInterval 5
  ServerAliveCountMax 3
"""
_SSHD = """
HostKey /etc/ssh/key
AuthorizedKeysFile /etc/ssh/key.pub
StrictModes no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
MaxStartups 100
"""


def missing(tools: tuple[str, ...] = TOOLS) -> str:
    """Why hosts cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "namespaces need root"
    absent = [tool for tool in tools if shutil.which(tool, path=_PATH) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (tests/launch/hosts/install.sh installs them)"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link"], capture_output=True, text=True
    )
    return probe.stderr.strip() and f"namespaces are not allowed: {probe.stderr.strip()}"


@dataclass(frozen=True)
class Host:
    """One host. Its processes see the same files as everybody, except for what `hosts` covers."""

    name: str
    address: str
    holder: int
    """Process id of its first process, as seen from outside."""

    def command(self, command: list[str], cwd: Path | None = None) -> list[str]:
        """`command` as run on this host."""
        enter = ["nsenter", f"--target={self.holder}", "--net", "--mount", "--uts", "--pid", "--"]
        return [*enter, "env", f"--chdir={cwd or Path.cwd()}", *command]

    def start(
        self, command: list[str], *, output: IO[Any] | int | None = None, cwd: Path | None = None, **variables: str
    ) -> "subprocess.Popen[bytes]":
        """Start `command` here with `variables` added to the environment; both outputs go to `output`."""
        environment = {**os.environ, "PATH": _PATH, **variables}
        return subprocess.Popen(self.command(command, cwd), stdout=output, stderr=subprocess.STDOUT, env=environment)

    def run(self, command: str | list[str], *, timeout: float = 60.0, cwd: Path | None = None, **variables: str) -> str:
        """Run a command (a string: through bash) and return what it prints. Raises RuntimeError if it fails."""
        words = ["bash", "-c", command] if isinstance(command, str) else command
        process = self.start(words, output=subprocess.PIPE, cwd=cwd, **variables)
        try:
            output = process.communicate(timeout=timeout)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise
        if process.returncode:
            raise RuntimeError(f"{self.name}: {shlex.join(words)} ended with {process.returncode}:\n{output}")
        return output

    def path(self, path: Path) -> Path:
        """Where a path of this host is found from outside."""
        return Path(f"/proc/{self.holder}/root") / path.relative_to("/")

    def processes(self, *words: str) -> list[int]:
        """Ids, from outside, of the processes here whose command line holds all `words`; not the first process."""
        mine = os.readlink(f"/proc/{self.holder}/ns/pid")
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            # Processes come and go while we look.
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if os.readlink(folder / "ns" / "pid") == mine and all(word in command for word in words):
                    found.append(int(folder.name))
        return sorted(set(found) - {self.holder})

    def kill_all(self, *words: str) -> int:
        """SIGKILL to `processes(*words)`; the sshd that waits for connections stays. Returns how many there were."""
        targets = set(self.processes(*words)) - set(self.processes("sshd", "[listener]"))
        for target in targets:
            with contextlib.suppress(ProcessLookupError):
                os.kill(target, signal.SIGKILL)
        return len(targets)


class Hosts(list[Host]):
    """The hosts of a bed, and the cables between them."""

    def __init__(self, switch: int, folder: Path) -> None:
        super().__init__()
        self._switch, self.folder = switch, folder

    def cut(self, host: Host) -> None:
        """Pull the host's cable: what it sends and what is sent to it is lost, and nobody is told."""
        self._cable(host, "down")

    def mend(self, host: Host) -> None:
        """Put the cable back."""
        self._cable(host, "up")

    def _cable(self, host: Host, state: str) -> None:
        _inside(self._switch, f"ip link set cable{self.index(host) + 1} {state}")

    def hostfile(self, path: Path, num_hosts: int) -> Path:
        """Write a DeepSpeed hostfile with the first `num_hosts` hosts, one process each."""
        path.write_text("".join(f"{host.name} slots=1\n" for host in self[:num_hosts]))
        return path


@contextlib.contextmanager
def hosts(num_hosts: int, folder: Path, *, small_disk: str | None = None) -> Iterator[Hosts]:
    """`num_hosts` hosts node1, node2, ... that reach each other by name and by ssh without a password.

    `folder` (new or empty) takes keys and configuration. With `small_disk` (such as "8m") `folder/small` is a file
    system of that size which all hosts share; from outside it is seen through `Host.path`.
    """
    for name in ("ssh", "small"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "ssh" / "key"], check=True)
    (folder / "ssh" / "ssh_config").write_text(_SSH)
    (folder / "ssh" / "sshd_config").write_text(_SSHD)
    addresses = {f"node{i}": f"{_NETWORK}.{i}" for i in range(1, num_hosts + 1)}
    names = "".join(f"{address} {name}\n" for name, address in addresses.items())
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
    disk = f"mount -t tmpfs -o size={small_disk} small {shlex.quote(str(folder / 'small'))}; " if small_disk else ""
    bridge = f"{disk}ip link add name bridge0 type bridge; ip link set bridge0 up; "
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_namespace(["unshare", "--net", "--mount"], bridge))
        made = Hosts(switch, folder)
        for i, (name, address) in enumerate(addresses.items(), 1):
            enter = [
                "nsenter",
                f"--target={switch}",
                "--net",
                "--mount",
                "--pid",
                "unshare",
                "--net",
                "--mount",
                "--uts",
            ]
            holder = stack.enter_context(_namespace(enter, _boot(name, folder)))
            _inside(
                switch,
                f"ip link add cable{i} type veth peer name eth0 netns {_seen_from(switch, holder)}; "
                f"ip link set cable{i} master bridge0 up",
            )
            _inside(holder, f"ip addr add {address}/24 dev eth0; ip link set eth0 up", "--net")
            made.append(Host(name, address, holder))
        for host in made:
            host.run("exec $(command -v sshd)")
        yield made


def _boot(name: str, folder: Path) -> str:
    quoted = shlex.quote(str(folder))
    return (
        f"hostname {name}; ip link set lo up; "
        f"mount --bind {quoted}/hosts /etc/hosts; mount --bind {quoted}/ssh /etc/ssh; "
        "mount -t tmpfs run /run; cd /run; mkdir sshd; "
    )


@contextlib.contextmanager
def _namespace(unshare: list[str], setup: str) -> Iterator[int]:
    """A process that is the first of new namespaces, has run `setup` and waits; yields its id as seen from here."""
    script = f"set -e; {setup} echo ready; {_HOLD}"
    words = [*unshare, "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]
    environment = {**os.environ, "PATH": _PATH}
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"could not make a host with: {setup}")
            yield _descendant(process.pid, "bash")
        finally:
            process.stdin.close()
            process.wait()


def _descendant(pid: int, name: str) -> int:
    """The only descendant of a process in line that runs `name`."""
    while Path(f"/proc/{pid}/comm").read_text().strip() != name:
        pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    return pid


def _seen_from(observer: int, pid: int) -> int:
    """The id that a process has in the process namespace of `observer`."""
    status = Path(f"/proc/{pid}/status").read_text()
    ids = next(line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:"))
    mine = Path(f"/proc/{observer}/status").read_text()
    depth = len(next(line.split()[1:] for line in mine.splitlines() if line.startswith("NSpid:")))
    return int(ids[depth - 1])


def _inside(pid: int, script: str, *namespaces: str) -> None:
    enter = ["nsenter", f"--target={pid}", *(namespaces or ("--net", "--mount", "--pid"))]
    subprocess.run([*enter, "bash", "-ec", script], check=True, env={**os.environ, "PATH": _PATH})


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until `condition()` is true. Raises TimeoutError that says what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)
