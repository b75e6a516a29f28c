"""Every launcher starts the same training: two ranks give the loss curve of one process on the same global batch."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hnet
from hnet.config import save_config
from hnet.training.config import RunConfig
from hnet.training.loop import train

Make = Callable[..., RunConfig]
Read = Callable[[Path], list[dict[str, Any]]]

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher(name: str) -> list[str]:
    if name == "deepspeed":
        head = ["deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", str(free_port()), "--module"]
        return [sys.executable, "-m", *head, "hnet.train"]
    if name == "accelerate":
        head = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
        return [sys.executable, "-m", *head, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "hnet.train"]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "hnet.train"]


@pytest.mark.parametrize(
    ("name", "overrides", "parallel"),
    [
        ("torchrun", [], "2 processes on cpu, data parallel"),
        ("deepspeed", [], "2 processes on cpu, DeepSpeed ZeRO stage 1"),
        ("torchrun", ["engine.zero_stage=3"], "2 processes on cpu, DeepSpeed ZeRO stage 3"),
        ("accelerate", [], "one process on cpu"),
    ],
)
def test_ranks_give_the_loss_curve_of_one_process(
    make_config: Make, read_rows: Read, tmp_path: Path, name: str, overrides: list[str], parallel: str
) -> None:
    same = ["training.ratio_loss_scope=global_batch", "training.steps=4", "training.checkpoint_every=2"]
    train(make_config(*same))
    config_file, output_dir = tmp_path / "run.yaml", tmp_path / "launched"
    save_config(make_config(*same, *overrides, f"output_dir={output_dir}"), config_file)
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "launch"))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*launcher(name), str(config_file), "training.seed=0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert parallel in done.stderr
    alone, launched = read_rows(tmp_path / "run"), read_rows(output_dir)
    assert len(launched) == 4
    for one, other in zip(alone, launched, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        assert other["bytes_seen"] == one["bytes_seen"]
        assert other["boundary"][0]["bytes_per_chunk"] == one["boundary"][0]["bytes_per_chunk"]
    assert launched[-1]["validation_bits_per_byte"] == pytest.approx(alone[-1]["validation_bits_per_byte"], rel=1e-5)
    whole, sharded = hnet.load(tmp_path / "run"), hnet.load(output_dir)
    assert {name: p.shape for name, p in sharded.named_parameters()} == {
        name: p.shape for name, p in whole.named_parameters()
    }
