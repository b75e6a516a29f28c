"""Compile kernels/csrc with nvcc into one shared library. Standard library only, as setup.py runs it."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "csrc"
LIBRARY = Path(__file__).resolve().parents[1] / "lib" / "libhnet_kernels.so"
ARCHITECTURES = (80, 90, 100)
"""Compiled to machine code; other GPUs from 80 on get theirs from PTX when the library is loaded."""


class BuildError(RuntimeError):
    """What is missing, or what the compiler said."""


def build(output: Path = LIBRARY, nvcc: str = "nvcc") -> str:
    """Write the library and return ptxas's report of registers and spills.

    Raises:
        BuildError: nvcc or the sources are not there, or do not compile.
    """
    compiler = shutil.which(nvcc)
    if compiler is None:
        raise BuildError(f"{nvcc} was not found: put the CUDA toolkit's nvcc on PATH, or leave the CUDA build out")
    sources = sorted(SOURCES.glob("*.cu"))
    if not sources:
        raise BuildError(f"no CUDA sources in {SOURCES}: build from a checkout of the repository")
    output.parent.mkdir(parents=True, exist_ok=True)
    machine_code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    portable = f"-gencode=arch=compute_{ARCHITECTURES[0]},code=compute_{ARCHITECTURES[0]}"
    flags = ["-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", "-cudart", "static", "-Xptxas", "-v"]
    command = [compiler, *flags, *machine_code, portable, *map(str, sources), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"nvcc failed:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m hnet_kernels.cuda", description="The CUDA C++ kernels.")
    parser.add_argument("action", choices=["build"], help="compile them for this installation")
    parser.add_argument("--nvcc", default="nvcc", help="the compiler (default: the one on PATH)")
    parser.add_argument("--output", type=Path, default=LIBRARY, help="default: where hnet_kernels looks for it")
    arguments = parser.parse_args(argv)
    try:
        report = build(arguments.output, arguments.nvcc)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.strip(), arguments.output, sep="\n")
    return 0
