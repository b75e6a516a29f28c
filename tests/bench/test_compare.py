"""The scripts under docs/benchmarks: that they run, not what they measure."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "docs" / "benchmarks"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_comparison_leaves_out_what_is_not_installed(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"It is a truth universally acknowledged.\n" * 1000)
    without_packages = tmp_path / "python"
    without_packages.write_text(f'#!/usr/bin/env sh\nexec {sys.executable} -I -S "$@"\n')
    without_packages.chmod(0o755)
    done = run(
        "compare_cpu.py", "--text", str(text), "--threads", "1", "--rounds", "1", "--systems", "hnet", "byte-llama",
        "--others-python", str(without_packages), "--output", str(tmp_path / "result"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "result.json").read_text())
    assert list(report["systems"]) == ["hnet"]
    assert "ModuleNotFoundError" in report["missing"]["byte-llama"]
    assert report["systems"]["hnet"]["bytes_per_second"]["samples"] == 1
    page = (tmp_path / "result.md").read_text()
    assert "hnet (this project)" in page
    assert "Left out: byte-llama" in page
