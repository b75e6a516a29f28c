"""The whole way on this machine: two ranks train, one is killed, and the run ends as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hnet.config import load_config
from hnet.training.config import RunConfig
from hnet.training.loop import train

ROOT = Path(__file__).parents[2]
SMALL = ["data.sequence_length=64", "training.global_batch_bytes=128", "training.micro_batch_bytes=64"]
STEPS = ["training.steps=80", "training.checkpoint_every=20", "training.peak_flops=1e9"]


def _losses(output_dir: Path) -> dict[int, float]:
    rows = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


def _wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def test_a_killed_rank_costs_nothing_but_time(run_file: Path, tmp_path: Path) -> None:
    overrides = [*SMALL, *STEPS]
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "launch"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    options = ["--gpus-per-node", "2", "--cpu", "--no-preflight", "--restart-wait", "0"]
    command = [sys.executable, "-m", "hnet", "launch", str(run_file), *options, *overrides]
    output = tmp_path / "out"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        _wait_for(output / "checkpoints" / "step-00000020", process)
        told = (output / "logs" / "attempt-000" / "launcher.log").read_text()
        worker = re.search(r'"rank": 1, "pid": (\d+)', told)
        assert worker is not None
        os.kill(int(worker[1]), signal.SIGKILL)
        said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    assert re.search(r"attempt 0 failed after \d+ s: rank 1 on \S+ was killed by SIGKILL", said)
    assert "finished in attempt 1, at checkpoint step-00000080" in said
    logs = sorted(path.name.split(".")[0] for path in (output / "logs" / "attempt-001").iterdir())
    assert logs == ["launcher", "rank-00000", "rank-00001"]
    train(load_config(RunConfig, str(run_file), [*overrides, f"output_dir={tmp_path / 'alone'}"]))
    assert _losses(output) == pytest.approx(_losses(tmp_path / "alone"), rel=1e-5)
