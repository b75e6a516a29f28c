"""`hnet bench kernels` on a CPU: that it checks, times and reports; not what it measures."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from hnet.bench.kernel_path import PATH
from hnet.bench.kernels import DTYPES, bench_kernels, check, make_plan
from hnet.cli import main
from hnet.errors import UserError
from hnet_kernels.case import Case, Sizes
from hnet_kernels.tools.cases import discover

EVERY = [*(case for _, case in discover()), PATH]
QUICK: dict[str, Any] = {"width": 32, "units_per_chunk": 5, "dtypes": ["fp32"], "device": "cpu", "rounds": 2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in EVERY])
def test_every_op_agrees_with_its_eager_composition(case: Case, dtype: str) -> None:
    found = check(case, Sizes(300, 60, 64, dtype=DTYPES[dtype]))
    assert found["passed"], found
    assert found["num_units"] == 300


def test_report(tmp_path: Path) -> None:
    out = io.StringIO()
    plan = make_plan(["chunk", "pool_attention", "path"], [200, 400], **QUICK)
    report = bench_kernels(plan, out=tmp_path / "new", console=Console(file=out, width=120), progress=False)
    assert json.loads((tmp_path / "new" / "kernels.json").read_text()) == report
    assert (tmp_path / "new" / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert report["implementation"] == "reference"
    assert report["machine"]["packages"]["torch"]
    assert report["copy_bytes_per_second"]["median"] > 0
    rows = {(row["case"], row["num_units"]): row for row in report["rows"]}
    assert len(rows) == len(report["rows"]) == 8
    row = rows["pool_attention", 400]
    assert set(row["ways"]) == {"op", "eager"} and set(row["left_out"]) == {"compile", "padded_sdpa"}
    for way in row["ways"].values():
        for kind in ("forward", "both"):
            assert len(way[kind]["rounds"]) == 2
            assert way[kind]["least"] <= way[kind]["median"] <= way[kind]["most"]
    forward = row["ways"]["op"]["forward"]["median"]
    rate = row["floor_bytes"]["forward"] / forward
    assert row["summary"]["bytes_per_second"]["forward"] == pytest.approx(rate)
    assert row["summary"]["times_faster_than"]["eager"]["forward"] == pytest.approx(
        row["ways"]["eager"]["forward"]["median"] / forward
    )
    said = out.getvalue()
    assert "reference operations on a CPU" in said
    assert said.count("left out: compile") == 1


def test_a_wrong_op_is_reported_and_not_timed(tmp_path: Path) -> None:
    (case,) = (case for case in EVERY if case.name == "segment_mean")
    wrong = replace(case, run=lambda **inputs: case.run(**inputs) * 1.01)
    out = io.StringIO()
    plan = replace(make_plan(["segment_mean"], [200], **QUICK), cases=(wrong,))
    (row,) = bench_kernels(plan, out=tmp_path, console=Console(file=out, width=120), progress=False)["rows"]
    assert not row["check"]["passed"] and row["ways"] == {}
    assert row["check"]["relative_error"] == pytest.approx(0.01, rel=0.05)
    assert "wrong, not" in out.getvalue()
    assert "segment_mean fp32: differs from eager by 1.0e-02" in out.getvalue()


def test_results_that_are_not_numbers_are_wrong() -> None:
    (case,) = (case for case in EVERY if case.name == "segment_mean")
    found = check(replace(case, run=lambda **inputs: case.run(**inputs) * float("nan")), Sizes(300, 60, 64))
    assert not found["passed"]


def test_an_op_that_fails_is_no_rival_left_out() -> None:
    def fail(**inputs: object) -> torch.Tensor:
        raise RuntimeError("broken")

    (case,) = (case for case in EVERY if case.name == "segment_mean")
    plan = replace(make_plan(["segment_mean"], [200], **QUICK), cases=(replace(case, run=fail),))
    with pytest.raises(RuntimeError, match="broken"):
        bench_kernels(plan, console=Console(file=io.StringIO()), progress=False)


def test_a_rival_that_fails_is_left_out() -> None:
    def fail(**inputs: object) -> torch.Tensor:
        raise ModuleNotFoundError("no module named rival")

    (case,) = (case for case in EVERY if case.name == "segment_mean")
    eager = case.others["eager"]
    calls = iter([eager])
    flaky = replace(case, others={"eager": lambda **inputs: next(calls, fail)(**inputs)})
    plan = replace(make_plan(["segment_mean"], [200], **QUICK), cases=(flaky,))
    (row,) = bench_kernels(plan, console=Console(file=io.StringIO()), progress=False)["rows"]
    assert set(row["ways"]) == {"op"}
    assert row["left_out"]["eager"] == "ModuleNotFoundError: no module named rival"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "bench kernels --ops ema --sizes 128 --width 32 --dtypes fp32 --rounds 1 --device cpu --out"
    assert main([*command.split(), str(tmp_path)]) == 0
    assert "ema_any" in capsys.readouterr().out
    assert {row["case"] for row in json.loads((tmp_path / "kernels.json").read_text())["rows"]} == {"ema", "ema_any"}


def test_sizes_without_a_pack_are_refused() -> None:
    with pytest.raises(UserError, match="give 40 or more"):
        make_plan(None, [39], **QUICK)
