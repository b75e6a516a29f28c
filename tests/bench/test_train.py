import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hnet.bench.train import bench_train, compare
from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.training.config import RunConfig


def run_config(tmp_path: Path, model: str = "hnet_tiny", **training: Any) -> dict[str, Any]:
    return {
        "output_dir": str(tmp_path / "run"),
        "model": model,
        "data": {"train": "sample:train", "sequence_length": 256},
        "training": {"global_batch_bytes": 1024, **training},
    }


def test_report(tmp_path: Path) -> None:
    config = load_config(RunConfig, run_config(tmp_path, micro_batch_bytes=512))
    path = tmp_path / "out" / "bench.json"
    report = bench_train(config, steps=3, warmup=1, json_path=path, bytes_per_chunk=4)
    assert json.loads(path.read_text()) == report
    measured = report["measured"]
    assert measured["seconds"]["samples"] == 3
    assert measured["seconds"]["least"] <= measured["seconds"]["median"] <= measured["seconds"]["most"]
    assert measured["units_per_second"]["median"] == pytest.approx(1024 / measured["seconds"]["median"], rel=1e-6)
    assert 0.9 < measured["bytes_per_second"]["median"] / measured["units_per_second"]["median"] <= 1
    assert 0 < measured["mfu"]["median"] < 1.2
    assert report["bytes_per_chunk"][0] == pytest.approx(4, rel=0.2)
    assert report["machine"]["packages"]["torch"]
    assert report["machine"]["device"]
    assert not (tmp_path / "run").exists()


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="makes no chunks"):
        bench_train(load_config(RunConfig, run_config(tmp_path, "byte_transformer_small")), bytes_per_chunk=6)
    with pytest.raises(ConfigError, match="above 1"):
        bench_train(load_config(RunConfig, run_config(tmp_path)), bytes_per_chunk=1)
    fixed = load_config(RunConfig, run_config(tmp_path), ["model.stages.0.boundary={type: fixed}"])
    with pytest.raises(ConfigError, match="boundary fixed is no router"):
        bench_train(fixed, bytes_per_chunk=6)


def test_memory_stays_within_one_and_a_half_of_the_prediction(tmp_path: Path) -> None:
    """In a process of its own, as a process that has freed memory before hides what it takes."""
    config = run_config(tmp_path, "hnet_small", global_batch_bytes=4096)
    code = (
        "import json, sys; from hnet.bench.train import bench_train; from hnet.config import load_config;"
        "from hnet.training.config import RunConfig;"
        "report = bench_train(load_config(RunConfig, json.loads(sys.argv[1])), steps=2, warmup=1, bytes_per_chunk=6);"
        "print(report['peak_memory_bytes'], report['predicted_memory_bytes'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(config)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    measured, predicted = map(int, done.stdout.splitlines()[-1].split())
    assert measured < 1.5 * predicted
    assert measured > 0.5 * predicted


def test_ratio_to_another_implementation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []

    @contextmanager
    def spy(name: str) -> Iterator[None]:
        used.append(name)
        yield

    monkeypatch.setattr("hnet.bench.train.backend", spy)
    config = load_config(RunConfig, run_config(tmp_path))
    report = bench_train(config, steps=2, warmup=1, bytes_per_chunk=4, against="reference")
    assert used == ["reference", "reference"]
    against = report["against"]
    assert against["backend"] == "reference" and against["bytes_per_second"]["samples"] == 2
    # One process, one set of operations on a CPU: about the same rate.
    assert 0.1 < against["ratio"]["median"] < 10


def test_ratio_is_taken_round_by_round() -> None:
    result = compare("reference", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0])
    assert result["ratio"]["median"] == 3.0 and result["bytes_per_second"]["median"] == 2.0
