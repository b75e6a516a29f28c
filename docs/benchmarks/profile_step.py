"""Where the time of a training step goes on a CPU, by kind of operation.

    python docs/benchmarks/profile_step.py --model hnet_10m --threads 2

prints a table and writes it to `profile_step.md` beside this file, with the share of the matrix-product peak that the
same steps reach without the profiler.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import torch
from compare_systems import CHUNK, CONTEXT, STEP_BYTES
from torch.profiler import ProfilerActivity, profile

from hnet.bench.machine import describe_machine
from hnet.bench.train import TimedTraining
from hnet.config import load_config
from hnet.training.config import RunConfig

KINDS = {
    "matrix products of layers": ("aten::mm", "aten::addmm", "aten::linear"),
    "matrix products in the scan": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "optimizer and clipping": ("adam", "foreach"),
    "loss": ("log_softmax", "nll_loss"),
    "copies, gathers and fills": (
        "copy_",
        "cat",
        "index",
        "fill_",
        "zero_",
        "gather",
        "embedding",
        "repeat_interleave",
    ),
}
OTHER = "element by element: norms, convolution, gates, decays"


def kind_of(name: str) -> str:
    """The kind of operation that a profiler's name belongs to."""
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="hnet_10m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = {
            "output_dir": folder,
            "model": arguments.model,
            "data": {"train": "sample:train", "sequence_length": CONTEXT},
            "training": {"global_batch_bytes": STEP_BYTES},
        }
        with TimedTraining(load_config(RunConfig, run), bytes_per_chunk=CHUNK) as training:
            training.warm_up(2)
            for _ in range(arguments.steps):
                training.step()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                training.warm_up(arguments.steps)
            page = table(training, profiler, arguments)
    (Path(__file__).parent / "profile_step.md").write_text(page)
    print(page)


def table(training: TimedTraining, profiler: profile, arguments: argparse.Namespace) -> str:
    """Shares of the time that operations take themselves, largest first."""
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in profiler.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total
        calls[kind_of(event.key)] += event.count
    machine, total = describe_machine(torch.device("cpu")), times.total()
    samples = training.samples
    rows = [
        f"| {kind} | {time / total:.1%} | {calls[kind] // arguments.steps:,} |" for kind, time in times.most_common()
    ]
    return "\n".join(
        [
            f"# Where the time of a training step goes: {arguments.model}",
            "",
            f"{machine['device']}, {arguments.threads} threads, fp32, {STEP_BYTES:,} bytes a step in sequences of "
            f"{CONTEXT:,}, chunks of {CHUNK} bytes. Without the profiler: "
            f"{median(samples['bytes_per_second']) / 1e3:.2f} kB/s, "
            f"{median(samples['flops_per_second']) / 1e9:.1f} GFLOP/s of model FLOPs, "
            f"{median(samples['mfu']):.1%} of the measured matrix-product rate. "
            f"Commit {machine['commit']}, torch {machine['packages']['torch']}. Made by `profile_step.py`.",
            "",
            "| kind of operation | share of time | calls a step |",
            "|---|--:|--:|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    main()
