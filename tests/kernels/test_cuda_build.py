"""The boundary scan in CUDA C++: its algorithm on host threads, its build, and on a GPU itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packs import bounds
from torch import Tensor

from hnet_kernels import cuda
from hnet_kernels.chunk import reference
from hnet_kernels.tools.build_cuda import ARCHITECTURES, SOURCES, BuildError, build

THREADS = 4
TILE = 16 * THREADS


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> cuda.Library:
    """The same source with blocks of host threads, small enough that short packs span many tiles."""
    path = tmp_path_factory.mktemp("emulation") / "emulation.so"
    command = ["g++", "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared", "-fPIC"]
    subprocess.run([*command, f"-DHNET_THREADS={THREADS}", SOURCES / "emulation.cpp", "-o", path], check=True)
    return cuda.Library(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The library and ptxas's report; an nvcc that is not there is refused by name."""
    path = tmp_path_factory.mktemp("lib") / "libhnet_kernels.so"
    if shutil.which("nvcc") is None:
        with pytest.raises(BuildError, match="nvcc was not found"):
            build(path)
        return path, ""
    return path, build(path)


def pack(lengths: list[int], rate: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    cu_seqlens = bounds(lengths)
    mask = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed)) < rate
    mask[cu_seqlens[:-1].long()] = True
    return mask, cu_seqlens


def assert_scan_is_right(library: cuda.Library, mask: Tensor, cu_seqlens: Tensor, device: str = "cpu") -> None:
    expected = reference.chunk_scan(mask, cu_seqlens)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    # Twice: the first launch must leave the workspace as it found it.
    for _ in range(2):
        actual = library.boundary_scan(mask.to(device), cu_seqlens.to(device), stream)
        for got, want in zip(actual, expected, strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got.cpu(), want)
    assert not any(held.any() for held in library._workspaces.values())


PACKS = [
    *(([length], 0.3) for length in (1, 15, 16, TILE - 1, TILE, TILE + 1, 3 * TILE, 5 * TILE + 7)),
    ([1] * (2 * TILE + 3), 0.0),
    ([TILE, TILE, 1, TILE - 1, 40], 0.0),
    ([33, 256, 2, 300], 1.0),
    # More tiles than a block has threads: the look-back takes several steps.
    ([700, 1, 1, 900], 0.2),
]


@pytest.mark.parametrize(("lengths", "rate"), PACKS, ids=lambda value: str(value)[:24])
def test_the_algorithm_on_host_threads(emulation: cuda.Library, lengths: list[int], rate: float) -> None:
    assert_scan_is_right(emulation, *pack(lengths, rate))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=8), st.floats(0, 1), st.integers(0, 99))
def test_the_algorithm_on_random_packs(emulation: cuda.Library, lengths: list[int], rate: float, seed: int) -> None:
    assert_scan_is_right(emulation, *pack(lengths, rate, seed))


def test_a_mask_that_is_not_aligned_is_read_byte_by_byte(emulation: cuda.Library) -> None:
    mask, cu_seqlens = pack([200, 31], 0.4)
    shifted = torch.cat([mask[:3], mask])[3:]
    assert shifted.data_ptr() % 16
    assert_scan_is_right(emulation, shifted, cu_seqlens)


def test_the_kernel_compiles_for_every_gpu_without_a_spill(built: tuple[Path, str]) -> None:
    path, report = built
    assert path.exists() == bool(report)
    compiled = [int(number) for number in re.findall(r"Compiling entry function '\S+' for 'sm_(\d+)'", report)]
    assert sorted(compiled) == (list(ARCHITECTURES) if report else [])
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert frames == [("0", "0", "0")] * len(compiled)


def test_the_library_loads_and_runs_or_says_why_not(built: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, report = built
    monkeypatch.setattr(cuda, "LIBRARY", path)
    cuda.library.cache_clear()
    mask, cu_seqlens = pack([5000, 1, 300], 0.2)
    if not report:
        with pytest.raises(RuntimeError, match="-m hnet_kernels"):
            cuda.boundary_scan(mask, cu_seqlens)
    elif torch.cuda.is_available():
        library = cuda.Library(path)
        for lengths, rate in [*PACKS, ([1 << 20], 0.2), ([1] * 100_000, 0.0)]:
            assert_scan_is_right(library, *pack(lengths, rate), device="cuda")
    else:
        with pytest.raises(cuda.CudaError, match=r"not launched: CUDA error \d+, \w"):
            cuda.boundary_scan(mask, cu_seqlens)
    cuda.library.cache_clear()


def test_an_absent_compiler_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cuda.main(["build", "--nvcc", "no-such-nvcc"]) == 2
    assert capsys.readouterr().err.startswith("error: no-such-nvcc was not found")


def test_wrong_dtypes_are_refused() -> None:
    mask, cu_seqlens = pack([7], 0.5)
    with pytest.raises(ValueError, match="bool mask and int32 bounds"):
        cuda.boundary_scan(mask, cu_seqlens.long())
