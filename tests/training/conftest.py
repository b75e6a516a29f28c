"""A run that takes a second: a tiny H-Net on a few kilobytes of text."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.config import load_config
from hnet.training.config import RunConfig

TEXT = "the old king of the north rode out at dawn and came to a river where no bridge had ever been built"


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """`make_config("training.steps=3", ...)`: the tiny run with overrides, writing to `tmp_path/run`."""
    words = random.Random(0)
    for name, num_lines in (("train", 300), ("validation", 20)):
        lines = (" ".join(words.choices(TEXT.split(), k=9)) + ".\n" for _ in range(num_lines))
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    tree = {
        "output_dir": str(tmp_path / "run"),
        "model": "hnet_tiny",
        "data": {
            "train": str(tmp_path / "train.txt"),
            "validation": str(tmp_path / "validation.txt"),
            "sequence_length": 128,
            "validation_bytes": 500,
        },
        "training": {"steps": 6, "global_batch_bytes": 512, "log_every": 1, "peak_flops": 1e10},
        "optimizer": {"learning_rate": 2e-3},
        "logging": {"progress": False},
    }
    return lambda *overrides: load_config(RunConfig, tree, overrides)


@pytest.fixture
def read_rows() -> Callable[[Path], list[dict[str, Any]]]:
    """The rows of a run's `metrics.jsonl`, without the fields that depend on the machine's speed and memory."""
    from hnet.training.metrics import TIMING_FIELDS

    def read(output_dir: Path) -> list[dict[str, Any]]:
        lines = (output_dir / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k not in TIMING_FIELDS} for line in lines]

    return read
