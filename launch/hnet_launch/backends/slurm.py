"""Jobs of Slurm: the batch script, its submission, and its way back into the queue."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hnet.errors import ConfigError, UserError
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment
from hnet_launch.job import require_tool

_REMEDY = "it comes with Slurm; run this on a login node"


@dataclass(frozen=True)
class SlurmOptions:
    """What Slurm is asked for besides nodes and GPUs."""

    name: str
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    """Limit in Slurm's own form, such as `24:00:00`."""
    signal_seconds: int = 120
    """How long before the end the run is told to save."""
    cpus_per_task: int | None = None
    arguments: tuple[str, ...] = ()
    """Further options of sbatch, such as `--exclusive`."""


def batch_script(
    options: SlurmOptions,
    cluster: ClusterConfig,
    command: Sequence[str],
    environment: Environment,
    *,
    folder: Path,
    log: Path,
) -> str:
    """A script that runs `command` in `folder` on the first node. Raises ConfigError for options with line breaks.

    The signal goes to the script's own process, which the command takes over: it passes it on to the ranks.
    """
    settings = {
        "--job-name": options.name,
        "--partition": options.partition,
        "--account": options.account,
        "--time": options.time,
        "--nodes": cluster.nodes,
        "--ntasks-per-node": cluster.gpus_per_node,
        "--gpus-per-node": None if cluster.gpu == "cpu" else cluster.gpus_per_node,
        "--cpus-per-task": options.cpus_per_task,
        "--signal": f"B:USR1@{options.signal_seconds}",
        "--chdir": folder,
        "--output": log,
        "--open-mode": "append",
    }
    lines = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items() if value is not None]
    for name, value in settings.items():
        if "\n" in str(value):
            raise ConfigError(f"{name}: got {str(value)!r}; a line break would end the line of the script")
    lines += ["--requeue", *options.arguments]
    for line in options.arguments:
        if "\n" in line or not line.startswith("-"):
            raise ConfigError(f"--sbatch-arg: got {line!r}; give an option of sbatch, such as --exclusive")
    exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.variables.items()]
    head = ["#!/usr/bin/env bash", *(f"#SBATCH {line}" for line in lines)]
    return "\n".join([*head, "", *exports, "", f"exec {shlex.join(command)}", ""])


def submit(script: Path, environment: Environment) -> str:
    """Submit a script; returns the job's id. Raises UserError with what sbatch says.

    Secrets travel in the submitting environment, which Slurm hands to the job.
    """
    require_tool("sbatch", _REMEDY)
    done = subprocess.run(
        submit_command(script), capture_output=True, text=True, env={**os.environ, **environment.all()}, check=False
    )
    if done.returncode:
        raise UserError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().partition(";")[0]


def submit_command(script: Path) -> list[str]:
    """The command that submits a script."""
    return ["sbatch", "--parsable", "--export=ALL", str(script)]


def requeue_this_job() -> bool:
    """Put the job that we are in back into the queue; False if it was cancelled, so that nobody wants it back.

    Raises UserError if Slurm refuses.
    """
    job = os.environ["SLURM_JOB_ID"]
    shown = _scontrol("show", "job", job, "--oneliner")
    state = re.search(r"\bJobState=(\w+)", shown)
    if state is None or state[1] != "RUNNING":
        return False
    _scontrol("requeue", job)
    return True


def _scontrol(*arguments: str) -> str:
    require_tool("scontrol", _REMEDY)
    done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"scontrol {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
