"""Arguments of `hnet launch`. Imports nothing: the parser of every other command is built with it."""

import argparse
import re
from pathlib import Path

LAUNCHERS = ("pdsh", "openssh", "openmpi")
DEFAULT_PORT = 29500
MOST_PORT = 65535 - 99
"""Attempts take the ports after the first one in turn."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All options but the run's YAML file and its overrides."""
    where = parser.add_argument_group("where (default: all devices of this machine)").add_mutually_exclusive_group()
    where.add_argument("--hostfile", type=Path, metavar="FILE", help="hosts as `NAME slots=N` lines, over DeepSpeed")
    where.add_argument("--slurm", action="store_true", help="write a batch script and submit it")
    where.add_argument("--srun", action="store_true", help="inside an allocation of Slurm: start the ranks now")
    where.add_argument("--torchrun", action="store_true", help="this node's share; the same command on every node")
    where.add_argument(
        "--kubernetes",
        choices=("jobset", "pytorchjob"),
        nargs="?",
        const="jobset",
        help="write a manifest; with --apply, hand it in (default kind: jobset)",
    )
    shape = parser.add_argument_group("machines")
    shape.add_argument("--cluster", metavar="NAME", help="a name in configs/clusters or a YAML file, also with hosts")
    shape.add_argument("--nodes", type=_positive, metavar="N", help="nodes to use")
    shape.add_argument("--gpus-per-node", type=_positive, metavar="N", help="ranks of each node")
    shape.add_argument("--cpu", action="store_true", help="nodes without GPUs: ask for none")
    tools = parser.add_argument_group("tools")
    tools.add_argument("--launcher", choices=LAUNCHERS, default="pdsh", help="how DeepSpeed reaches hosts")
    tools.add_argument("--launcher-args", default="", metavar="TEXT", help="passed on to pdsh or mpirun")
    tools.add_argument("--node-rank", type=_natural, metavar="I", help="start only node I of the hostfile, here")
    tools.add_argument("--master-addr", metavar="HOST", help="address of the first node (default: found)")
    tools.add_argument("--master-port", type=_port, metavar="PORT", help=f"default: {DEFAULT_PORT}, or by Slurm job")
    tools.add_argument("--rdzv-endpoint", metavar="HOST:PORT", help="where torchrun's nodes meet")
    tools.add_argument("--rdzv-id", default="hnet", metavar="NAME", help="names the job there")
    tools.add_argument(
        "--nnodes", metavar="MIN:MAX", help="torchrun: nodes, or a range within which nodes may come and go"
    )
    _add_slurm(parser.add_argument_group("Slurm"))
    _add_kubernetes(parser.add_argument_group("Kubernetes"))
    _add_restarts(parser.add_argument_group("restarts"))
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="a variable for every rank, besides the usual",
    )
    checks = parser.add_argument_group("checks of every node before the start").add_mutually_exclusive_group()
    checks.add_argument("--preflight-only", action="store_true", help="check, and start nothing")
    checks.add_argument("--no-preflight", action="store_true", help="start without checks")
    parser.add_argument("--dry-run", action="store_true", help="print what would be written and run, and do nothing")


def _add_restarts(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--max-restarts", type=_natural, default=10, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--preempted-code",
        type=_natural,
        default=0,
        metavar="N",
        help="exit with N when stopped on request and saved (default: %(default)s)",
    )
    group.add_argument(
        "--stalled-restarts",
        type=_positive,
        default=3,
        metavar="N",
        help="give up after this many failures without a new checkpoint (default: %(default)s)",
    )
    group.add_argument(
        "--restart-wait", type=_natural, default=5, metavar="SECONDS", help="doubled each time, at most 5 min"
    )


def _add_slurm(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--partition", metavar="NAME")
    group.add_argument("--account", metavar="NAME")
    group.add_argument("--time", metavar="LIMIT", help="such as 24:00:00")
    group.add_argument("--job-name", metavar="NAME", help="default: from the output_dir; also for Kubernetes")
    group.add_argument("--cpus-per-task", type=_positive, metavar="N")
    group.add_argument(
        "--signal-seconds",
        type=_positive,
        default=120,
        metavar="N",
        help="save so long before the end (default: %(default)s)",
    )
    group.add_argument(
        "--sbatch-arg", action="append", default=[], metavar="OPTION", help="such as --sbatch-arg=--exclusive"
    )
    group.add_argument("--requeue", action="store_true", help="with --srun: back into the queue when preempted")


def _add_kubernetes(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--image", metavar="IMAGE", help="what every pod runs; needs `hnet` in it")
    group.add_argument("--namespace", metavar="NAME")
    group.add_argument(
        "--volume",
        action="append",
        default=[],
        metavar="CLAIM:/PATH",
        help="shared by all pods; the first is where they run",
    )
    group.add_argument("--secret", metavar="NAME", help="Kubernetes secret whose entries become variables")
    group.add_argument("--manifest", type=Path, metavar="FILE", help="default: the job's name and .yaml, here")
    group.add_argument("--apply", action="store_true", help="run kubectl apply")


def _positive(text: str) -> int:
    return _integer(text, 1)


def _port(text: str) -> int:
    value = _integer(text, 1)
    if value > MOST_PORT:
        raise argparse.ArgumentTypeError(f"got '{text}'; allowed: at most {MOST_PORT}, as attempts use 100 ports")
    return value


def _natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    value = int(text) if re.fullmatch(r"-?\d+", text) else least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"got '{text}'; allowed: an integer of at least {least}")
    return value
