"""`--dry-run` prints what would be written and run, to the letter, and does nothing.

The expected texts lie in `dry_runs/`. A missing one is written, and its test fails once: read it before you keep it.
"""

import re
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.cli import main

Tools = Callable[..., Callable[[], list[dict[str, Any]]]]

EXPECTED = Path(__file__).parent / "dry_runs"
CASES = {
    "one_machine": "--gpus-per-node 4",
    "one_machine_cpu": "--cpu training.steps=20",
    "hostfile": "--hostfile {tmp}/hosts",
    "hostfile_some_nodes": "--hostfile {tmp}/hosts --nodes 1 --master-addr 10.0.0.1 --master-port 3000",
    "hostfile_this_machine": "--hostfile {tmp}/here --cpu",
    "openmpi": "--hostfile {tmp}/hosts --launcher openmpi --launcher-args '--mca btl_tcp_if_include ens5'",
    "node_rank": "--hostfile {tmp}/hosts --node-rank 1",
    "torchrun_elastic": "--torchrun --nnodes 2:4 --gpus-per-node 8 --rdzv-endpoint node1:29400 --max-restarts 5",
    "slurm": "--slurm --cluster h100_8x8 --partition gpu --account lab --time 24:00:00 --sbatch-arg=--exclusive",
    "slurm_cpu": "--slurm --nodes 2 --gpus-per-node 1 --cpu --cpus-per-task 4 --job-name try --env MINE='a b'",
    "jobset": "--kubernetes --cluster h100_8x8 --image example.org/hnet:1 --volume data:/data --secret tokens",
    "pytorchjob": "--kubernetes pytorchjob --cpu --image hnet:cpu --volume a:/a --volume b:/b --apply --no-preflight",
}


def _normal(text: str, tmp_path: Path) -> str:
    """The text without what differs from machine to machine, and without the run's own configuration."""
    text = text.replace(str(tmp_path), "{tmp}").replace(str(Path(sys.executable).parent), "{bin}")
    text = re.sub(r"\{bin\}/python[\d.]*", "{bin}/python", text).replace(str(Path.cwd()), "{here}")
    text = re.sub(r"^PATH=.*$", "PATH={path}", text, flags=re.MULTILINE)
    text = re.sub(r"^export PATH=.*$", "export PATH={path}", text, flags=re.MULTILINE)
    text = text.replace(f"attempt-000.{socket.gethostname().partition('.')[0]}", "attempt-000.{host}")
    return re.sub(r"^( *)output_dir: .*?\n(?=\n# |---\n)", r"\1{run}\n", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize("name", CASES)
def test_a_dry_run_prints_what_would_happen(
    name: str, run_file: Path, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = tools(**dict.fromkeys(("pdsh", "ompi_info", "sbatch", "kubectl", "srun"), ""))
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    monkeypatch.setenv("WANDB_API_KEY", "never to be printed")
    (tmp_path / "hosts").write_text("node1 slots=8\nnode2 slots=8\n")
    (tmp_path / "here").write_text("localhost slots=2\n")
    before = sorted(tmp_path.rglob("*"))
    run = [str(run_file), "output_dir=out"] if "kubernetes" in CASES[name] else [str(run_file)]
    assert main(["launch", *run, "--dry-run", *shlex.split(CASES[name].format(tmp=tmp_path))]) == 0
    printed = capsys.readouterr().out
    assert "never to be printed" not in printed
    assert sorted(tmp_path.rglob("*")) == before and calls() == []
    expected, found = EXPECTED / f"{name}.txt", _normal(printed, tmp_path)
    if not expected.exists():
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(found)
        pytest.fail(f"there was no {expected}: it is written; read it")
    assert found == expected.read_text()
