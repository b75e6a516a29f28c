"""`hnet bench kernels`: every op of `hnet_kernels` timed against memory and against other ways to the same result."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from hnet.bench.kernel_path import PATH
from hnet.bench.kernel_report import draw, print_table
from hnet.bench.machine import describe_machine
from hnet.bench.spread import Spread
from hnet.errors import UserError
from hnet_kernels.case import Case, Sizes
from hnet_kernels.tools.cases import backward, differentiable, discover

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Of an op's results and gradients against the eager composition in float32, in the Euclidean norm."""
SHARES_TIES = frozenset({"segment_max"})
"""Cases whose eager composition shares a gradient among equal elements, which are many in half precision: there only
their results are compared."""
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 26}
WARM_UP = 2
Run = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    cases: tuple[Case, ...]
    sizes: tuple[Sizes, ...]
    rounds: int
    device: torch.device


def make_plan(
    ops: Sequence[str] | None,
    num_units: Sequence[int],
    *,
    width: int,
    units_per_chunk: int,
    dtypes: Sequence[str],
    device: str | None,
    rounds: int,
) -> Plan:
    """Raises UserError for a name that does not exist, a GPU that is not there, or sizes that make no pack."""
    try:
        cases = [case for _, case in discover(None if ops is None else [name for name in ops if name != PATH.name])]
    except ValueError as error:
        raise UserError(f"{error}, {PATH.name}") from None
    if ops is None or PATH.name in ops:
        cases.append(PATH)
    if unknown := [name for name in dtypes if name not in DTYPES]:
        raise UserError(f"no dtype {unknown[0]!r}; there are: {', '.join(DTYPES)}")
    available = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and available == "cpu":
        raise UserError("--device cuda: PyTorch sees no CUDA GPU here; --device cpu times the reference operations")
    model = Sizes(1, 1, width, device=device or available)
    if width % model.num_heads:
        raise UserError(f"--width {width} is not divisible by the {model.num_heads} heads of the attention ops")
    sizes = []
    for units in num_units:
        num_chunks = units // units_per_chunk
        if num_chunks < model.num_documents:
            least = units_per_chunk * model.num_documents
            raise UserError(f"--sizes {units} is too short for {model.num_documents} documents; give {least} or more")
        sizes += [replace(model, num_units=units, num_chunks=num_chunks, dtype=DTYPES[name]) for name in dtypes]
    return Plan(tuple(cases), tuple(sizes), rounds, torch.device(device or available))


def bench_kernels(
    plan: Plan, *, out: Path | None = None, console: Console | None = None, progress: bool = True
) -> dict[str, Any]:
    """Checks and times every case at every size; prints a table and writes `kernels.json` and `kernels.png`.

    An op whose results differ from its eager composition is reported and not timed.
    """
    console = console or Console()
    if plan.device.type == "cpu":
        console.print("No GPU: these are timings of the reference operations on a CPU, not of the kernels.")
    report: dict[str, Any] = {
        "benchmark": "kernels",
        "implementation": "reference" if plan.device.type == "cpu" else "triton",
        "machine": describe_machine(plan.device),
        "rounds": plan.rounds,
        "copy_bytes_per_second": measure_copy(plan.device, plan.rounds),
        "rows": [],
    }
    with Progress(console=console, transient=True, disable=not progress) as bar:
        task = bar.add_task("", total=len(plan.cases) * len(plan.sizes))
        for case in plan.cases:
            for sizes in plan.sizes:
                bar.update(task, description=f"{case.name} {sizes.num_units:,}")
                report["rows"].append(measure(case, sizes, plan.rounds, report["copy_bytes_per_second"]["median"]))
                bar.advance(task)
    print_table(console, report)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "kernels.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        draw(report, out / "kernels.png")
    return report


def measure_copy(device: torch.device, rounds: int) -> dict[str, float]:
    """Bytes per second of a large copy on the device, read and written."""
    source = torch.zeros(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = [clock(lambda: target.copy_(source), device) for _ in range(rounds + WARM_UP)][WARM_UP:]
    return Spread.of([2 * source.numel() / second for second in seconds]).as_dict()


def clock(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: between two events of the device, or on the wall for a CPU."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def ways(case: Case, device: torch.device) -> Iterator[tuple[str, Run | str]]:
    """Every way to the result of a case, or why one is not tried."""
    yield "op", case.run
    for name, other in case.others.items():
        yield name, other if name == "eager" or device.type == "cuda" else "timed on a GPU only"
        if name == "eager":
            yield "compile", torch.compile(other) if device.type == "cuda" else "timed on a GPU only"


def measure(case: Case, sizes: Sizes, rounds: int, copy_rate: float) -> dict[str, Any]:
    """One row of the report."""
    device = torch.device(sizes.device)
    row: dict[str, Any] = {
        "case": case.name,
        "num_units": sizes.num_units,
        "num_chunks": sizes.num_chunks,
        "width": sizes.width,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == sizes.dtype),
        "floor_bytes": dict(zip(("forward", "backward"), case.floor(sizes), strict=True)),
        "check": check(case, sizes),
        "left_out": {},
        "ways": {},
    }
    if row["check"]["passed"]:
        inputs = case.inputs(sizes)
        calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
        for name, run in ways(case, device):
            if isinstance(run, str):
                row["left_out"][name] = run
                continue
            try:
                calls[name] = prepare(run, inputs)
            except Exception as error:
                # A rival that is not installed or runs out of memory is left out; the op itself must run.
                if name == "op":
                    raise
                row["left_out"][name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
        row["ways"] = time_all(calls, rounds, device)
        row["summary"] = summarise(row, copy_rate)
    if device.type == "cuda":
        torch.compiler.reset()
        torch.cuda.empty_cache()
    return row


def prepare(run: Run, inputs: Mapping[str, Any]) -> tuple[Callable[[], object], Callable[[], object]]:
    """The forward pass, and forward and backward; both have run before, which compiles."""

    def forward() -> object:
        with torch.no_grad():
            return run(**inputs)

    outputs = differentiable(run(**inputs))
    grads = [torch.randn_like(out) for out in outputs]
    del outputs

    def both() -> object:
        return backward(differentiable(run(**inputs)), inputs, grads)

    for _ in range(WARM_UP):
        forward()
        both()
    return forward, both


def time_all(
    calls: Mapping[str, tuple[Callable[[], object], Callable[[], object]]], rounds: int, device: torch.device
) -> dict[str, Any]:
    """Seconds of every way in interleaved rounds, so that all see the same state of the machine."""
    samples: dict[str, dict[str, list[float]]] = {name: {"forward": [], "both": []} for name in calls}
    for _ in range(rounds):
        for name, (forward, both) in calls.items():
            samples[name]["forward"].append(clock(forward, device))
            samples[name]["both"].append(clock(both, device))
    return {
        name: {kind: {**Spread.of(values).as_dict(), "rounds": values} for kind, values in kinds.items()}
        for name, kinds in samples.items()
    }


def summarise(row: Mapping[str, Any], copy_rate: float) -> dict[str, Any]:
    """Bandwidth at the floor's bytes over that of a copy, and how many times faster the op is than other ways."""
    medians = {name: (way["forward"]["median"], way["both"]["median"]) for name, way in row["ways"].items()}
    forward, both = medians["op"]
    # The backward pass is what the second measurement adds to the first.
    # It is not known where that is less than the noise.
    seconds = {"forward": forward, "backward": both - forward if both > forward else None}
    rates = {name: second and row["floor_bytes"][name] / second for name, second in seconds.items()}
    return {
        "seconds": seconds,
        "bytes_per_second": rates,
        "share_of_copy": {name: rate and rate / copy_rate for name, rate in rates.items()},
        "times_faster_than": {
            name: {"forward": other[0] / forward, "both": other[1] / both}
            for name, other in medians.items()
            if name != "op"
        },
    }


def check(case: Case, sizes: Sizes) -> dict[str, Any]:
    """Largest relative error of the op's results and gradients against the eager composition in float32.

    Made at the size that is timed, or at a sixteenth of it where the composition does not fit into memory.
    """
    try:
        error = relative_error(case, sizes)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        sizes = replace(sizes, num_units=sizes.num_units // 16, num_chunks=sizes.num_chunks // 16)
        error = relative_error(case, sizes)
    limit = TOLERANCE[sizes.dtype]
    return {"relative_error": error, "limit": limit, "num_units": sizes.num_units, "passed": error <= limit}


def relative_error(case: Case, sizes: Sizes) -> float:
    """NaN counts as infinite."""
    inputs = case.inputs(sizes)
    wide = {name: _widened(value) for name, value in inputs.items()}
    outputs, expected = differentiable(case.run(**inputs)), differentiable(case.others["eager"](**wide))
    results, wanted = [*outputs], [*expected]
    if case.name not in SHARES_TIES or sizes.dtype == torch.float32:
        grads = [torch.randn_like(out) for out in outputs]
        results += backward(outputs, inputs, grads)
        wanted += backward(expected, wide, [g.to(e.dtype) for g, e in zip(grads, expected, strict=True)])
    worst = 0.0
    for got, want in zip(results, wanted, strict=True):
        difference = (got.detach().float() - want.detach().float()).norm()
        error = float(difference / want.detach().float().norm().clamp_min(1e-30))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _widened(value: object) -> object:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().float().requires_grad_(value.requires_grad)
