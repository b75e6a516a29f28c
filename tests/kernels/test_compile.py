"""Every Triton kernel compiles for every GPU without a spill, and loads rows in wide pieces. No GPU is needed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hnet_kernels

ROOT = Path(__file__).parents[2]
PACKAGE = Path(hnet_kernels.__file__).parent
TARGETS = {"cuda:80", "cuda:90", "cuda:100", "hip:gfx942"}
# In fp32 one width, which keeps a first run under four minutes; the table of docs/kernels.md has all three.
SHAPES = {"D=1024 bf16", "D=1536 bf16", "D=2048 bf16", "D=1024 fp32"}


# Three mistakes on purpose: a tile that does not fit into registers, loads of half the width, a loop with a break.
PLANTED = """
import json, sys
import torch
import triton
import triton.language as tl
from hnet_kernels.case import Case, Sizes
from hnet_kernels.tools.compile import compile_cases

@triton.jit
def spilling_kernel(x_ptr, out_ptr, ROWS: tl.constexpr, D: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * D + tl.arange(0, D)[None, :]
    x = tl.load(x_ptr + at)
    tl.store(out_ptr + at, x / tl.sum(x * x))

@triton.jit
def narrow_kernel(x_ptr, out_ptr, D: tl.constexpr):
    at = tl.program_id(0) * D + tl.arange(0, D)
    tl.store(out_ptr + at, tl.load(x_ptr + at))

@triton.jit
def broken_kernel(x_ptr, out_ptr, D: tl.constexpr):
    for row in range(10):
        if row > 5:
            break
        tl.store(out_ptr + row, tl.load(x_ptr + row))

def run(x, rows):
    out = torch.empty_like(x)
    spilling_kernel[(1,)](x, out, ROWS=rows, D=1024, num_warps=1)
    narrow_kernel[(16,)](x, out, D=1024, num_warps=16)
    broken_kernel[(1,)](x, out, D=1024)
    return out

def compile_for(target, rows):
    case = Case("planted", lambda sizes: {"x": sizes.randn(rows, sizes.width), "rows": rows}, run, lambda sizes: (0, 0))
    return compile_cases([("planted", case)], [target], [Sizes(643, 131, 1024, dtype=torch.float32)])

# A thread has 255 registers on NVIDIA, 512 on AMD.
results = compile_for("cuda:90", 16) + compile_for("hip:gfx942", 32)
json.dump([[result.kernel, result.target, result.faults()] for result in results], sys.stdout)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: kernels are compiled where Triton's interpreter is off."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str]:
    """Every compilation, and what the command said of faults."""
    path = tmp_path_factory.mktemp("compile") / "compiled.json"
    done = run("-m", "hnet_kernels.tools.compile", "--fp32-widths", "1024", "--json", str(path))
    assert path.exists(), done.stderr
    return json.loads(path.read_text()), done.stderr


def kernels() -> set[tuple[str, str]]:
    """(op, name) of every kernel in the source."""
    return {
        (path.parent.name, name)
        for path in PACKAGE.glob("*/triton.py")
        for name in re.findall(r"^def (\w+_kernel)\(", path.read_text(), re.MULTILINE)
    }


def test_nothing_fails_spills_or_loads_rows_in_narrow_pieces(compiled: tuple[list[dict[str, Any]], str]) -> None:
    results, said = compiled
    assert said.splitlines()[-1].endswith(", 0 with faults"), said
    assert all(result["resources"]["spills"] == 0 for result in results)


def test_every_kernel_is_compiled_for_every_gpu_and_shape(compiled: tuple[list[dict[str, Any]], str]) -> None:
    results, _ = compiled
    assert {(result["op"], result["kernel"]) for result in results} == kernels()
    for op, _ in kernels():
        own = [result for result in results if result["op"] == op]
        for target in TARGETS:
            assert {shape for result in own if result["target"] == target for shape in result["shapes"]} == SHAPES


def test_most_kernels_are_seen_to_load_rows(compiled: tuple[list[dict[str, Any]], str]) -> None:
    """The check of widths would pass if it found no loads at all."""
    results, _ = compiled
    rows = [result["kernel"] for result in results if result["resources"]["row_load_bytes"] is not None]
    assert len(rows) > 0.6 * len(results)


def test_planted_mistakes_are_reported(tmp_path: Path) -> None:
    script = tmp_path / "planted.py"
    script.write_text(PLANTED)
    done = run(str(script))
    assert done.returncode == 0, done.stderr
    faults = {(kernel, target): "; ".join(found) for kernel, target, found in json.loads(done.stdout)}
    assert len(faults) == 6
    for target in ("cuda:90", "hip:gfx942"):
        assert faults["spilling_kernel", target].startswith("spills: ")
        assert "does not compile" in faults["broken_kernel", target]
    assert faults["narrow_kernel", "cuda:90"] == "loads rows 8 bytes at a time"
    assert faults["narrow_kernel", "hip:gfx942"] == "loads rows 4 bytes at a time"


def test_an_interpreted_process_compiles_nothing(tmp_path: Path) -> None:
    code = "from hnet_kernels.tools.compile import compile_cases; compile_cases([])"
    done = run("-c", f"import os; os.environ['TRITON_INTERPRET'] = '1'; {code}")
    assert "TRITON_INTERPRET is set" in done.stderr


def test_the_document_names_every_kernel() -> None:
    text = (ROOT / "docs" / "kernels.md").read_text()
    table = re.findall(r"^\| (\w+) \| `(\w+)` \| (?:bf16|fp32) \|", text, re.MULTILINE)
    assert set(table) == kernels()
