"""Starting runs on the hosts of a bed, and what they have written."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.launch.hosts.bed import Hosts

ROOT = Path(__file__).parents[3]
PYTHONPATH = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "launch"))
STEPS = 40

Make = Callable[..., Path]
Report = Callable[[str], None]


def deepspeed(hostfile: Path, run_file: Path, *overrides: str) -> list[str]:
    """Plain `deepspeed` on the hosts of a file."""
    head = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile)]
    return [*head, "--module", "hnet.train", str(run_file), *overrides]


def start(nodes: Hosts, command: list[str], log: Path, **more: str) -> "subprocess.Popen[bytes]":
    """Run a launcher on the first host from the log's folder, where DeepSpeed finds the variables for all hosts."""
    (log.parent / ".deepspeed_env").write_text("OMP_NUM_THREADS=1\nDS_ACCELERATOR=cpu\n")
    variables = {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with log.open("wb") as output:
        return nodes[0].start(command, output=output, cwd=log.parent, **variables, **more)


def losses(output_dir: Path) -> list[float]:
    """The loss of every step in `metrics.jsonl`; of a step that was run again after a restart, the last."""
    by_step = {
        row["step"]: row["loss"] for row in map(json.loads, (output_dir / "metrics.jsonl").open()) if "loss" in row
    }
    return [by_step[step] for step in sorted(by_step)]


def difference(found: list[float], undisturbed: list[float]) -> str:
    """Last losses and the largest difference of any step, to print."""
    worst = max(abs(one - other) for one, other in zip(found, undisturbed, strict=True))
    return f"loss {found[-1]:.6f}, one process {undisturbed[-1]:.6f}, largest difference of a step {worst:.1e}"


def hnet_launch(hostfile: Path, run_file: Path, *options: str) -> list[str]:
    """`hnet launch` on the hosts of a file, on their CPUs."""
    return [sys.executable, "-m", "hnet", "launch", str(run_file), "--cpu", "--hostfile", str(hostfile), *options]


def last_step(output_dir: Path) -> int:
    """The last step that `metrics.jsonl` has; 0 before there is one."""
    path = output_dir / "metrics.jsonl"
    # The last line may be half written.
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((int(json.loads(line)["step"]) for line in lines if line.endswith("\n")), default=0)


def last_words(log: Path, *words: str) -> str:
    """The last line of a log that holds one of `words`; empty if there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if any(word in line for word in words)), "")
