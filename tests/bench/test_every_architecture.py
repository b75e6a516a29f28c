"""`hnet plan` and `hnet bench train` work for the small model of every architecture."""

import json
from pathlib import Path

import pytest

from hnet.bench.architectures import small_models
from hnet.bench.train import bench_train
from hnet.cli import main
from hnet.config import load_config
from hnet.model.accounting import count_lookup_parameters, count_parameters
from hnet.training.config import RunConfig

SMALL = ["data.sequence_length=256", "training.global_batch_bytes=512", "training.micro_batch_bytes=512"]


@pytest.mark.parametrize("name", small_models())
def test_a_training_step_is_timed(name: str) -> None:
    config = load_config(RunConfig, "architectures", [f"model={name}", *SMALL])
    report = bench_train(config, steps=1, warmup=0)
    assert report["parameters"] == count_parameters(config.model)
    assert len(report["bytes_per_chunk"]) == len(config.model.stages) - 1
    assert all(size >= 1 for size in report["bytes_per_chunk"])
    measured = {name: spread["median"] for name, spread in report["measured"].items()}
    # A forward pass multiplies by every weight that is not looked up, at least once in a chunk of a hundred bytes.
    assert measured["flops_per_byte"] > 2 * (report["parameters"] - count_lookup_parameters(config.model)) / 100
    # Three forward passes; of the model that boundaries ask, one.
    assert 1 < measured["flops_per_second"] / (measured["flops_per_byte"] * measured["bytes_per_second"]) < 3.001


@pytest.mark.parametrize("name", small_models())
def test_a_run_is_planned(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    words = ["plan", "architectures", f"model={name}", "--nodes=1", "--gpus-per-node=8", "--gpu=h100"]
    assert main([*words, "engine=zero3", "training.global_batch_bytes=65536", f"--json={out}"]) == 0
    report, config = json.loads(out.read_text()), load_config(RunConfig, "architectures", [f"model={name}"])
    assert report["model_parameters"]["total"] == count_parameters(config.model)
    assert report["lookup_parameters"] == count_lookup_parameters(config.model)
    assert report["recommended_engine"] == "DDP" and report["cost"]["forward_flops_per_byte"] > 0
    stages = [part for part in report["memory"]["mean"]["activations"] if part.startswith("stages")]
    assert len(stages) == len(config.model.stages)
    assert "of these, looked up by rows" in capsys.readouterr().out
