"""The figures of docs/planner.md are those that its commands give."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from hnet.cli import main

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "planner.md").read_text(encoding="utf-8")


def test_table_of_the_released_models(capsys: pytest.CaptureFixture[str]) -> None:
    command = re.search(r"^hnet (plan fineweb_edu --models \S+)$", TEXT, re.MULTILINE)
    assert command is not None
    assert main(command[1].split()) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2 + 6 * 3
    assert printed in TEXT


def test_lost_time_on_64_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = DOCS / "benchmarks" / "balance", tmp_path / "lost.json"
    words = ["plan", "fineweb_edu", "model=hnet_2stage_XL", "--simulate", str(folder / "counts.npz"), "--ranks", "64"]
    assert main([*words, "--json", str(out)]) == 0
    lost = json.loads(out.read_text())["outcomes"][0]["lost"]["step"]
    report = json.loads((folder / "lost_time.json").read_text())
    kept, made_with = report["outcomes"], report["made_with"]
    assert made_with["commit"] and made_with["uncommitted_changes"] is None
    assert made_with["counts"]["sha256"] == hashlib.sha256((folder / "counts.npz").read_bytes()).hexdigest()
    (kept_lost,) = (outcome["lost"]["step"] for outcome in kept if outcome["ranks"] == 64)
    assert lost == pytest.approx(kept_lost, rel=1e-3)
    assert lost["exchanged"] < 0.03 < lost["predicted"] < 0.04 < 0.25 < lost["plain"]
    row = "  ".join(f"{lost[order]:.2%}" for order in ("plain", "predicted", "exchanged", "oracle"))
    assert row.split() in [line.split()[1:] for line in TEXT.splitlines() if line.strip().startswith("64 ")]
