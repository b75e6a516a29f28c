"""`hnet bench train`: the real training step of a run, timed."""

import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hnet.bench.machine import describe_machine
from hnet.bench.memory import PeakMemory
from hnet.bench.spread import Spread
from hnet.errors import ConfigError
from hnet.model.accounting import count_parameters, flops_per_byte, training_bytes
from hnet.training.allocator import keep_freed_memory
from hnet.training.building import prepare
from hnet.training.config import RunConfig
from hnet.training.engine import Engine, open_engine
from hnet.training.metrics import training_flops
from hnet.training.peak import measured_flops
from hnet.training.run import build_step, num_micro_batches, open_stream
from hnet.training.step import StepResult, TrainStep
from hnet_kernels.dispatch import Backend, backend

SAMPLES = ("seconds", "bytes_per_second", "units_per_second", "flops_per_byte", "flops_per_second", "peak_flops", "mfu")


class TimedTraining:
    """The training step of a run on the run's data, without a run folder. Use as a context manager.

    A step is all that training does for one: waiting for data, micro-batches, clipping, update. The peak rate of
    matrix products is measured after every step, so that both see the same state of the machine, and MFU is the
    ratio of the two. FLOPs are those of the model at the chunk counts that occurred, without recomputation.
    """

    def __init__(self, config: RunConfig, *, bytes_per_chunk: float | None = None) -> None:
        """`bytes_per_chunk` and errors: as in `bench_train`."""
        keep_freed_memory()
        self.config = config
        self.engine = open_engine(config)
        self.results: list[StepResult] = []
        self.samples: dict[str, list[float]] = {name: [] for name in SAMPLES}
        self._stream = open_stream(config, self.engine)
        self._peak()
        self.memory = PeakMemory(self.engine.device)
        self._step = _prepare(config, self.engine, bytes_per_chunk)
        self._number = 0

    def __enter__(self) -> "TimedTraining":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.engine.close()

    def warm_up(self, steps: int) -> None:
        """Steps that are not recorded."""
        for _ in range(steps):
            self._next()

    def rate(self) -> float:
        """Bytes of text per second of one step that is not recorded."""
        result, seconds = self._timed()
        return result.target_bytes / seconds

    def step(self) -> StepResult:
        """One recorded step."""
        result, seconds = self._timed()
        forward = flops_per_byte(self.config.model, result.units_per_stage, result.context) * result.units
        rate, peak = training_flops(self.config, result) / seconds, self._peak() * self.engine.world_size
        values = (
            seconds,
            result.target_bytes / seconds,
            result.units / seconds,
            forward / result.target_bytes,
            rate,
            peak,
            rate / peak,
        )
        for name, value in zip(SAMPLES, values, strict=True):
            self.samples[name].append(value)
        self.results.append(result)
        return result

    def _timed(self) -> tuple[StepResult, float]:
        began = time.perf_counter()
        result = self._next()
        return result, time.perf_counter() - began

    def _next(self) -> StepResult:
        self._number += 1
        batches = list(islice(self._stream, num_micro_batches(self.config, self.engine.data_world_size)))
        return self._step(batches, self._number)

    def _peak(self) -> float:
        dtype = torch.bfloat16 if self.config.training.precision == "bf16" else torch.float32
        return measured_flops(self.engine.device, dtype, repeats=3)


def bench_train(
    config: RunConfig,
    *,
    steps: int = 20,
    warmup: int = 3,
    json_path: Path | None = None,
    bytes_per_chunk: float | None = None,
    against: Backend | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Runs `warmup` + `steps` optimizer steps of a run on its data and reports their cost, see `TimedTraining`.

    Args:
        bytes_per_chunk: stage-0 units per innermost chunk. The routers and their losses run, but pseudo-random
            boundaries of this rate replace their decisions, as an untrained router makes chunks of any size.
        against: after every step one more runs with this implementation of the kernels' operations, and the ratio of
            the two rates is reported.
    Returns:
        What is written to `json_path`: medians with spread, memory, machine, config.
    Raises:
        ConfigError: the config cannot be run, or `bytes_per_chunk` is not above 1 or the model has no router for it.
    """
    with TimedTraining(config, bytes_per_chunk=bytes_per_chunk) as training:
        training.warm_up(warmup)
        other: list[float] = []
        for _ in range(steps):
            training.step()
            if against is not None:
                with backend(against):
                    # The first may compile.
                    other.append(training.rate() if other else max(training.rate(), training.rate()))
        report = build_report(training)
        if against is not None:
            report["against"] = compare(against, training.samples["bytes_per_second"], other)
        report |= {"warmup_steps": warmup, "forced_bytes_per_chunk": bytes_per_chunk}
        if training.engine.is_main:
            _print(console or Console(), report)
            if json_path is not None:
                json_path.parent.mkdir(parents=True, exist_ok=True)
                json_path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _prepare(config: RunConfig, engine: Engine, bytes_per_chunk: float | None) -> TrainStep:
    num_chunking = len(config.model.stages) - 1
    if bytes_per_chunk is not None and (num_chunking == 0 or bytes_per_chunk <= 1):
        raise ConfigError(
            f"bytes per chunk cannot be {bytes_per_chunk}: "
            + ("give a number above 1" if num_chunking else "the model has one stage and makes no chunks")
        )
    given = [stage.boundary.type for stage in config.model.stages[:-1] if not stage.boundary.is_learned]
    if bytes_per_chunk is not None and given:
        raise ConfigError(
            f"bytes per chunk cannot be {bytes_per_chunk}: boundary {given[0]} is no router that could be told to; "
            "leave the option out"
        )
    prepare(config, engine)
    if bytes_per_chunk is not None:
        engine.model.force_bytes_per_chunk(bytes_per_chunk ** (1 / num_chunking))
    return build_step(config, engine)


def compare(against: Backend, own: list[float], other: list[float]) -> dict[str, Any]:
    """The rate with another implementation, and ours over it, round by round."""
    ratios = [a / b for a, b in zip(own, other, strict=True)]
    rates, ratio = Spread.of(other).as_dict(), Spread.of(ratios).as_dict()
    return {"backend": against, "bytes_per_second": rates, "ratio": ratio}


def build_report(training: TimedTraining) -> dict[str, Any]:
    """What was measured so far, as JSON-serialisable data."""
    config, engine, results = training.config, training.engine, training.results
    micro_batch_units = config.training.micro_batch_bytes or config.training.global_batch_bytes // engine.world_size
    per_text = [[count / result.text_units for count in result.stage_units] for result in results]
    largest = [max(shares) for shares in zip(*per_text, strict=True)]
    predicted = training_bytes(
        config.model,
        [round(share * micro_batch_units) for share in largest],
        dtype_bytes=2 if config.training.precision == "bf16" else 4,
        activation_checkpointing=config.training.activation_checkpointing,
    )
    stages = zip(*(result.stages for result in results), strict=True)
    return {
        "benchmark": "train",
        "machine": describe_machine(engine.device),
        "world_size": engine.world_size,
        "parallelism": engine.describe(),
        "parameters": count_parameters(config.model),
        "bytes_per_chunk": [statistics.median(entry.bytes_per_chunk for entry in stage) for stage in stages],
        "measured": {name: Spread.of(values).as_dict() for name, values in training.samples.items()},
        "peak_memory_bytes": training.memory.growth(),
        "predicted_memory_bytes": predicted,
        "config": config.model_dump(mode="json"),
    }


_ROWS = (
    ("text", "bytes_per_second", 1e3, "kB/s"),
    ("units", "units_per_second", 1e3, "k/s"),
    ("step", "seconds", 1, "s"),
    ("model, forward", "flops_per_byte", 1e6, "MFLOP/byte"),
    ("model, training", "flops_per_second", 1e9, "GFLOP/s"),
    ("matrix product", "peak_flops", 1e9, "GFLOP/s"),
    ("MFU", "mfu", 0.01, "%"),
)


def _print(console: Console, report: dict[str, Any]) -> None:
    machine = report["machine"]
    threads = f", {machine['threads']} threads" if machine["threads"] else ""
    console.print(f"{report['parameters'] / 1e6:.2f} M parameters on {machine['device']}{threads}", highlight=False)
    table = Table("", "median", "quartiles", "extremes", "unit", box=None, pad_edge=False)
    for label, name, scale, unit in _ROWS:
        spread = report["measured"][name]
        median, lower, upper, least, most = (
            f"{spread[key] / scale:.4g}" for key in ("median", "lower_quartile", "upper_quartile", "least", "most")
        )
        table.add_row(label, median, f"{lower} to {upper}", f"{least} to {most}", unit)
    console.print(table, highlight=False)
    if "against" in report:
        rate, ratio = (report["against"][name]["median"] for name in ("bytes_per_second", "ratio"))
        console.print(f"{ratio:.2f} times the {rate / 1e3:.4g} kB/s of {report['against']['backend']}", highlight=False)
    if report["bytes_per_chunk"]:
        sizes = ", ".join(f"{size:.2f}" for size in report["bytes_per_chunk"])
        forced = " (forced)" if report["forced_bytes_per_chunk"] else ""
        console.print(f"bytes per chunk, by stage: {sizes}{forced}", highlight=False)
    peak, predicted = report["peak_memory_bytes"], report["predicted_memory_bytes"]
    measured = "not known" if peak is None else f"{peak / 1e6:,.0f} MB ({peak / predicted:.2f} of the prediction)"
    console.print(f"peak memory {measured}, predicted {predicted / 1e6:,.0f} MB", highlight=False)
