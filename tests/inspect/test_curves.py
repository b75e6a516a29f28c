import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from hnet.errors import DataError
from hnet.inspect.curves import plot_curves, read_metrics, smooth


def row(step: int, **more: Any) -> str:
    values = {
        "step": step,
        "bytes_seen": step * 1000,
        "bits_per_byte": 8 / step,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
    }
    return json.dumps(values | {"boundary": [{"bytes_per_chunk": 4.0, "ratio_loss": 1.0}]} | more) + "\n"


@pytest.mark.parametrize(
    "lines",
    [
        [row(1)],
        [row(step) for step in range(1, 30)] + [row(30, validation_bits_per_byte=2.5)],
        [row(1, boundary=[]), row(2, boundary=[], grad_norm=None, bits_per_byte=None)],
        [row(1, grad_norm=0.0, bits_per_byte=math.nan)],
    ],
    ids=["one step", "validation", "flat model", "not finite"],
)
def test_picture(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    path = plot_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert imread(path).std() > 0.02
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["curves.png", "metrics.jsonl"]


def test_later_line_of_a_step_counts_and_half_a_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(row(1) + row(2, grad_norm=5.0) + row(2, grad_norm=7.0) + row(3)[:20])
    assert [(entry["step"], entry["grad_norm"]) for entry in read_metrics(path)] == [(1, 1.0), (2, 7.0)]


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics.jsonl does not exist"):
        plot_curves(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match="holds no step"):
        plot_curves(tmp_path)
    path.write_text(row(1) + "[]\n" + row(2))
    with pytest.raises(DataError, match="line 2"):
        plot_curves(tmp_path)


def test_smooth() -> None:
    assert smooth([3.0, 3.0, 3.0], 5) == pytest.approx([3.0, 3.0, 3.0])
    assert smooth([0.0, 1.0], 1) == pytest.approx([0.0, 2 / 3])
    assert smooth([1.0, math.nan, 1.0], 1) == pytest.approx([1.0, 1.0, 1.0])
    assert math.isnan(smooth([math.nan], 1)[0])
