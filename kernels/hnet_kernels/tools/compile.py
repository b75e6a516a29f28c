"""Compile every Triton kernel for several GPUs without having one: `python -m hnet_kernels.tools.compile`.

The op's own Python code is run on small CPU tensors while its launches are recorded (`record.py`), so that types,
constants and divisibility are those of a real call. Numbers of units, chunks and documents are not divisible by 16,
the case that is harder to load in wide pieces.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton

from hnet_kernels.case import Case, Sizes
from hnet_kernels.tools.cases import discover
from hnet_kernels.tools.document import replace_table
from hnet_kernels.tools.record import Launch, merge, parse_target, record_launches
from hnet_kernels.tools.resources import Resources, measure

TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")
WIDTHS = (1024, 1536, 2048)
"""Of the stages of the released models; with 16 heads of 64, 96 and 128."""
WARP_LOAD = 512
"""Bytes of a row that one load instruction of a warp moves: 16 a thread on NVIDIA, 8 in the 64 threads of AMD's."""
SHAPES = tuple(
    Sizes(num_units=643, num_chunks=131, width=width, num_documents=3, dtype=dtype)
    for dtype in (torch.bfloat16, torch.float32)
    for width in WIDTHS
)


@dataclass(frozen=True)
class Result:
    """One compilation: what it takes, or why it failed."""

    op: str
    kernel: str
    target: str
    shapes: tuple[str, ...]
    num_warps: int | None
    resources: Resources | None
    error: str | None = None

    def faults(self) -> list[str]:
        """What is wrong with it: a failure, a spill, narrow loads of rows."""
        if self.resources is None:
            return [f"does not compile: {self.error}"]
        found = []
        if self.resources.spills:
            found.append(f"spills: {self.resources.spills}, stack of {self.resources.stack_bytes} bytes")
        narrowest = self.resources.row_load_bytes
        if narrowest is not None and narrowest * parse_target(self.target).warp_size < WARP_LOAD:
            found.append(f"loads rows {narrowest} bytes at a time")
        return found

    def __str__(self) -> str:
        return f"{self.op} {self.kernel} {self.target} ({', '.join(self.shapes)})"


def compile_cases(
    cases: Iterable[tuple[str, Case]],
    targets: Sequence[str] = TARGETS,
    shapes: Sequence[Sizes] = SHAPES,
    report: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Every kernel of the cases for every target and shape class; equal compilations are made once.

    Raises:
        RuntimeError: the process began with TRITON_INTERPRET=1, which leaves nothing to compile.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("TRITON_INTERPRET is set: kernels of this process are interpreted, not compiled")
    results: list[Result] = []
    launches: list[Launch] = []

    def take(result: Result) -> None:
        results.append(result)
        report(result)

    for op, case in cases:
        for sizes in shapes:
            try:
                launches += record_launches(op, case, sizes, list(targets))
            except Exception as error:
                shape = f"D={sizes.width} {sizes.dtype}"
                take(Result(op, case.name, "recording", (shape,), None, None, _last_line(error)))
    for launch in merge(launches):
        take(compile_launch(launch))
    return results


def compile_launch(launch: Launch) -> Result:
    """Compile one launch; a failure is a result too."""
    described = (launch.op, launch.kernel, launch.target, tuple(launch.shapes), launch.options["num_warps"])
    try:
        kernel = triton.compile(launch.source, target=parse_target(launch.target), options=launch.options)
        return Result(*described, measure(kernel, launch.target, launch.row_arguments))
    except Exception as error:
        return Result(*described, None, _last_line(error))


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1][:300] if lines else ''}"


def markdown(results: Sequence[Result]) -> str:
    """A table with a row for each kernel and dtype; where the widths D differ, their figures by width."""
    targets = list(dict.fromkeys(result.target for result in results))
    lines = [
        "| op | kernel | dtype | warps | " + " | ".join(f"{target}: registers" for target in targets)
        + " | shared bytes | spills | bytes a row load |",
        "|---" * (7 + len(targets)) + "|",
    ]  # fmt: skip
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        for dtype in dict.fromkeys(shape.split()[-1] for shape in result.shapes):
            groups.setdefault((result.op, result.kernel, dtype), []).append(result)
    for (op, kernel, dtype), group in sorted(groups.items()):
        cells = [_distinct(_registers(r) for r in group if r.target == t) for t in targets]
        shared = _distinct(sorted({r.resources.shared_bytes for r in group if r.resources}))
        spills = sum(r.resources.spills for r in group if r.resources)
        widths = _distinct(sorted({r.resources.row_load_bytes or 0 for r in group if r.resources})).replace("0", "none")
        warps = _distinct(sorted({r.num_warps or 0 for r in group}))
        lines.append(
            f"| {op} | `{kernel}` | {dtype} | {warps} | {' | '.join(cells)} | {shared} | {spills} | {widths} |"
        )
    return "\n".join(lines)


def _registers(result: Result) -> int | None:
    return result.resources.registers if result.resources else None


def _distinct(values: Iterable[int | None]) -> str:
    return ", ".join(dict.fromkeys("fails" if value is None else str(value) for value in values))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 when anything fails, spills or loads rows in narrow pieces."""
    parser = argparse.ArgumentParser("python -m hnet_kernels.tools.compile", description=__doc__.partition("\n")[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="default: %(default)s")
    parser.add_argument(
        "--fp32-widths", default=",".join(map(str, WIDTHS)), help="widths in fp32; default: %(default)s"
    )
    parser.add_argument("--ops", help="op folders or case names, separated by commas; default: all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every compilation as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="renew the table in docs/kernels.md")
    arguments = parser.parse_args(argv)
    cases = discover(arguments.ops and arguments.ops.split(","))
    began = time.perf_counter()

    def show(result: Result) -> None:
        for fault in result.faults():
            print(f"{result}: {fault}", file=sys.stderr, flush=True)

    fp32_widths = {int(width) for width in arguments.fp32_widths.split(",")}
    shapes = [sizes for sizes in SHAPES if sizes.dtype != torch.float32 or sizes.width in fp32_widths]
    results = compile_cases(cases, arguments.targets.split(","), shapes, report=show)
    faulty = sum(bool(result.faults()) for result in results)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if arguments.markdown:
        replace_table(arguments.markdown, "compiled", markdown(results))
    seconds = time.perf_counter() - began
    print(f"{len(results)} compilations in {seconds:.0f} s, {faulty} with faults", file=sys.stderr)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
