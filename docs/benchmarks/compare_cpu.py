"""Training speed of hnet beside other byte and token models on one CPU, interleaved in one run.

    python docs/benchmarks/compare_cpu.py --text big.txt --threads 2

Every system trains a model of about 10M parameters in fp32 with fused AdamW and gradient clipping, 8,192 bytes of the
same text a step, in sequences of 2,048 bytes. Each lives in a process of its own; the processes take turns, a few
steps each, so that a change of the machine's speed meets all alike. What is counted is bytes of text per second,
for tokens with the time of tokenising. Results go to `compare_cpu.json` and `compare_cpu.md` beside this file.

Needs `pip install transformers h-net-dynamic-chunking MEGABYTE-pytorch`; a system that is not installed is left out,
and the report says so. `--others-python` runs them with another interpreter, as their dependencies may disagree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import compare_systems
import torch
from compare_systems import CONTEXT, STEP_BYTES, SYSTEMS

import hnet
from hnet.bench.machine import describe_machine
from hnet.bench.spread import Spread


class Worker:
    """A system in a process of its own."""

    def __init__(self, name: str, python: str, folder: Path, threads: int, log: Path) -> None:
        self.name = name
        command = [python, str(Path(compare_systems.__file__)), name, str(folder), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("w"), text=True
        )
        self.log = log
        self.about = self._answer()

    def steps(self, count: int) -> list[dict[str, Any]]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return list(self._answer())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text().strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(f"{self.name}: {last[0]}")
        return json.loads(line)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All systems, round after round; in each round every system takes its steps, in an order that rotates."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "text.txt").write_bytes(_read_text(arguments.text, arguments.text_bytes))
        workers, missing = {}, {}
        for name in arguments.systems:
            python = sys.executable if name == "hnet" else arguments.others_python
            try:
                workers[name] = Worker(name, python, folder, arguments.threads, folder / f"{name}.log")
                workers[name].steps(arguments.warmup)
            except RuntimeError as error:
                workers.pop(name, None)
                missing[name] = str(error)
            print(f"{name}: {missing.get(name, 'ready')}", flush=True)
        figures: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for number in range(arguments.rounds):
            order = list(workers)
            for name in order[number % len(order) :] + order[: number % len(order)]:
                done = workers[name].steps(arguments.steps)
                figures[name] += done
                rate = median(one["bytes"] / one["seconds"] for one in done)
                print(f"round {number + 1}: {name} {rate / 1000:.2f} kB/s", flush=True)
        for worker in workers.values():
            worker.close()
        systems = {name: _summary(name, workers[name].about, steps) for name, steps in figures.items()}
    return {
        "settings": {
            "context_bytes": CONTEXT,
            "step_bytes": STEP_BYTES,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "steps_per_round": arguments.steps,
            "warmup_steps": arguments.warmup,
            "text": Path(arguments.text).name if arguments.text else "shipped sample",
            "text_bytes": arguments.text_bytes,
        },
        "systems": systems,
        "missing": missing,
    }


def _read_text(path: str | None, limit: int) -> bytes:
    if path is not None:
        return Path(path).read_bytes()[:limit]
    sample = Path(hnet.__file__).parent / "data" / "sample"
    return b"\n".join(file.read_bytes() for file in sorted(sample.glob("*.txt")))[:limit]


def _summary(name: str, about: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "title": SYSTEMS[name][0],
        **about,
        "bytes_per_second": Spread.of([one["bytes"] / one["seconds"] for one in steps]).as_dict(),
        "seconds": Spread.of([one["seconds"] for one in steps]).as_dict(),
    }
    for key in ("bytes_per_chunk", "mfu", "gflops", "matmul_gflops"):
        values = [one[key] for one in steps if key in one]
        if values:
            summary[key] = Spread.of(values).as_dict()
    if "peak_memory_mb" in steps[-1]:
        summary["peak_memory_mb"] = steps[-1]["peak_memory_mb"]
    return summary


def markdown(report: dict[str, Any]) -> str:
    """The result as a page."""
    settings, machine, systems = report["settings"], report["machine"], report["systems"]
    ours = systems.get("hnet", {}).get("bytes_per_second", {}).get("median")
    lines = [
        "# Training speed on a CPU",
        "",
        f"{machine['device']}, {settings['threads']} threads, fp32, {settings['step_bytes']:,} bytes a step "
        f"in sequences of {settings['context_bytes']:,}; "
        f"{settings['rounds']} interleaved rounds of {settings['steps_per_round']} steps "
        f"after {settings['warmup_steps']} to warm up; text: {settings['text']}. Commit {machine['commit']}, "
        f"Python {machine['python']}, torch {machine['packages']['torch']}. Made by `compare_cpu.py`.",
        "",
        "| system | parameters | bytes per unit | kB/s (quartiles) | hnet is faster by |",
        "|---|--:|--:|--:|--:|",
    ]
    for system in systems.values():
        rate = system["bytes_per_second"]
        size = f"{system['bytes_per_chunk']['median']:.2f}" if "bytes_per_chunk" in system else "1"
        ratio = f"{ours / rate['median']:.2f}" if ours else ""
        lines.append(
            f"| {system['title']} | {system['parameters'] / 1e6:.1f} M | {size} | {rate['median'] / 1000:.2f} "
            f"({rate['lower_quartile'] / 1000:.2f} to {rate['upper_quartile'] / 1000:.2f}) | {ratio} |"
        )
    if "mfu" in systems.get("hnet", {}):
        one = systems["hnet"]
        lines += [
            "",
            f"hnet reaches {one['gflops']['median']:.1f} GFLOP/s, {one['mfu']['median']:.1%} of the "
            f"{one['matmul_gflops']['median']:.1f} GFLOP/s that matrix products of 1,024 x 1,024 reach in the same "
            f"process between the steps (quartiles {one['mfu']['lower_quartile']:.1%} to "
            f"{one['mfu']['upper_quartile']:.1%}).",
        ]
    lines += ["", *(f"Left out: {name}: {reason}" for name, reason in report["missing"].items())]
    versions = sorted({f"{name} {version}" for one in systems.values() for name, version in one["versions"].items()})
    return "\n".join([*lines, f"Versions: {', '.join(versions)}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="a text file (default: the sample that ships with hnet)")
    parser.add_argument("--text-bytes", type=int, default=10_000_000, help="bytes of it that are used")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps of a system in a round")
    parser.add_argument("--warmup", type=int, default=1, help="steps of a system before the first round")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--others-python", default=sys.executable, help="interpreter for all systems but hnet")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "compare_cpu", help="without suffix")
    arguments = parser.parse_args()
    report = {"machine": describe_machine(torch.device("cpu")), **compare(arguments)}
    arguments.output.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    page = markdown(report)
    arguments.output.with_suffix(".md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
