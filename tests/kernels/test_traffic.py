"""Bytes that the kernels load and store, against the least that they must; and that the count itself is right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hnet_kernels.tools.cases import discover
from hnet_kernels.tools.traffic import ALLOWED, NO_FLOOR_YET

CASES = [case.name for _, case in discover() if case.name not in NO_FLOOR_YET]

# A kernel of known traffic: 3 of 4 rows of 32 float32, one index of 8 bytes and one atomic addition of 4 a row.
KNOWN = """
import json, sys
import torch
import triton
import triton.language as tl
from hnet_kernels.tools.traffic import counted

@triton.jit
def known_kernel(x_ptr, index_ptr, sum_ptr, out_ptr, rows, D: tl.constexpr):
    row = tl.program_id(0)
    if row < rows:
        at = tl.load(index_ptr + row) * D + tl.arange(0, 2 * D)
        x = tl.load(x_ptr + at, mask=tl.arange(0, 2 * D) < D, other=0.0)
        tl.store(out_ptr + at, x, mask=tl.arange(0, 2 * D) < D)
        tl.atomic_add(sum_ptr, tl.sum(x))

x, out, total, index = torch.ones(4, 32), torch.zeros(4, 32), torch.zeros(1), torch.arange(4)
with counted() as bytes:
    known_kernel[(4,)](x, index, total, out, 3, D=32)
    doubled = (x + x).view(-1)
    empty = torch.empty_like(x)
assert total.item() == 96 and out.sum() == 96
json.dump([bytes.loaded, bytes.stored], sys.stdout)
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, so that kernels are interpreted where there is a GPU too."""
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def ratios(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, float]]:
    """Forward and backward bytes over the floor, by case, at D = 1024, bf16 and five units a chunk."""
    path = tmp_path_factory.mktemp("traffic") / "ratios.json"
    done = run("-m", "hnet_kernels.tools.traffic", "--ops", ",".join(CASES), "--chunks", "128", "--json", str(path))
    assert path.exists(), done.stderr
    print(done.stdout)
    return {name: tuple(pair) for name, pair in json.loads(path.read_text()).items()}


@pytest.mark.parametrize("name", CASES)
def test_bytes_moved_are_near_the_floor(ratios: dict[str, tuple[float, float]], name: str) -> None:
    forward, backward = ratios[name]
    # Below the floor something would not have been counted.
    assert 0.99 < forward <= ALLOWED
    assert 0.99 < backward <= ALLOWED


def test_the_floors_of_the_essential_ops_are_checked() -> None:
    essential = {"route", "chunk", "chunk_with_residual", "ema", "upsample", "pool_attention", "unpool_attention"}
    assert essential <= set(CASES)
    assert {"segment_mean", "segment_max"} <= set(CASES)


def test_the_count_of_a_known_kernel_is_exact(tmp_path: Path) -> None:
    script = tmp_path / "known.py"
    script.write_text(KNOWN)
    done = run(str(script))
    assert done.returncode == 0, done.stderr
    loaded, stored = json.loads(done.stdout)
    row = 32 * 4
    assert loaded == {"known_kernel": 3 * (8 + row + 4), "aten.add": 8 * row}
    assert stored == {"known_kernel": 3 * (row + 4), "aten.add": 4 * row}


def test_a_compiled_process_counts_nothing() -> None:
    code = "import os; del os.environ['TRITON_INTERPRET']; from hnet_kernels.tools.traffic import counted\n"
    done = run("-c", f"{code}with counted(): pass")
    assert "TRITON_INTERPRET is not set" in done.stderr
