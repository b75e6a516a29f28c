"""What tests of the launcher share: a small run, and tools that only write down how they were called."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUN = """\
output_dir: {folder}/out
model: hnet_tiny
data: {{train: "sample:train", sequence_length: 256}}
training: {{steps: 40, global_batch_bytes: 512, checkpoint_every: 10, log_every: 1}}
logging: {{progress: false}}
"""

RECORDER = """#!/usr/bin/env python3
import json, os, sys
call = {{"argv": sys.argv, "environment": dict(os.environ)}}
with open({calls!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
{body}
"""

Calls = Callable[[], list[dict[str, Any]]]
Tools = Callable[..., Calls]


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run's YAML file; its output_dir is `out` beside it."""
    path = tmp_path / "run.yaml"
    path.write_text(RUN.format(folder=tmp_path))
    return path


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing of this machine, and nothing of a user, is set."""
    for name in list(os.environ):
        if name not in ("HOME", "TMPDIR", "TRITON_INTERPRET"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """`tools(sbatch="print(7)")` puts an executable of that name on PATH; what it returns lists the calls so far."""
    folder, calls = tmp_path / "tools", tmp_path / "calls.jsonl"

    def make(**bodies: str) -> Calls:
        folder.mkdir(exist_ok=True)
        for name, body in bodies.items():
            path = folder / name
            text = RECORDER.format(calls=str(calls), body=body)
            path.write_text(text.replace("/usr/bin/env python3", sys.executable))
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    return make
