"""`hnet bench architectures`: small models of every architecture trained alike, one after another, and compared.

What it starts are `hnet bench train`, `hnet train` and, for two ranks, `hnet launch`: each model has a process of its
own, and a run that was cut off goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnet.argument_types import number, words
from hnet.errors import ConfigError, UserError

if TYPE_CHECKING:
    from hnet.training.config import RunConfig

HELP = "train the small model of every architecture for some minutes each, and write the table that compares them"
EXAMPLE = "hnet bench architectures --minutes 3 --zero3 1 --configs hnet_small,byte_transformer_small"
BASELINES = ("byte_transformer_small", "byte_mamba_small")
"""Flat models to compare with."""
COMMON_RUN = "architectures"
"""In configs/runs; a model with a run of its own name there is trained by that instead."""
_TIMED_STEPS, _WARMUP_STEPS = 6, 2
_VALIDATIONS = 12
_RANKS = 2
_RANKS_SLOWER = 2.0
"""Time of a step on two ranks of a thread each over that of one process with all threads, to choose their number."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--minutes", type=number(0.0), default=3.0, help="of steps, each model (default: %(default)s)")
    parser.add_argument("--zero3", type=number(0.0), default=0.0, metavar="MINUTES", help="and on two ranks, ZeRO-3")
    parser.add_argument("--configs", type=words, metavar="A,B", help="names in configs/models (default: all small)")
    parser.add_argument("--text", metavar="T", help="text to train on (default: what ships with hnet)")
    parser.add_argument("--held-out", metavar="T", help="text to score; needed with --text")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME:key.path=value", help="change a value of one model's run"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/architectures"), metavar="DIR", help="runs go here (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("docs/architectures"), metavar="DIR", help="table and picture (%(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Train what `table.json` does not have yet, and write it, the table and the picture after each model.

    Raises ConfigError for names or texts that are none, and UserError at the end if a model could not be trained.
    """
    from hnet.bench.architectures_report import Table

    names = arguments.configs or small_models()
    table, failed = Table(arguments.out), []
    runs = {name: _run_config(name, arguments) for name in names}
    for number_of, (name, config) in enumerate(runs.items(), start=1):
        label = f"[{number_of}/{len(runs)}] {name}"
        try:
            entry = _single(label, config, arguments, table.entry(name))
            table.write(name, entry)
            if arguments.zero3:
                table.write(name, entry | {"zero3": _two_ranks(label, config, arguments, entry)})
        except subprocess.CalledProcessError as error:
            _say(f"{label}: {' '.join(map(str, error.cmd))} ended with {error.returncode}")
            failed.append(name)
    if failed:
        raise UserError(f"not trained: {', '.join(failed)}; the messages are above, and the same command goes on there")


def small_models() -> list[str]:
    """Names of the small hierarchical models that ship, of bytes, and of the flat ones to compare with."""
    from hnet.config import load_config
    from hnet.config.library import config_names
    from hnet.model.config import ModelConfig

    small = [name for name in config_names("models") if name.endswith("_small") and name not in BASELINES]
    return [name for name in small if len(load_config(ModelConfig, name).stages) > 1] + list(BASELINES)


def _run_config(name: str, arguments: argparse.Namespace) -> "RunConfig":
    """The run of one model, without its number of steps."""
    from hnet.config import load_config
    from hnet.config.library import config_names
    from hnet.training.config import RunConfig

    if (arguments.text is None) != (arguments.held_out is None):
        raise ConfigError("--text and --held-out go together: give the text to train on, and other text to score")
    own = name in config_names("runs")
    overrides = [f"output_dir={arguments.work / name}"] + ([] if own else [f"model={name}"])
    if arguments.text is not None:
        overrides += [f"data.train={arguments.text}", f"data.validation={arguments.held_out}"]
    for given in arguments.set:
        of_model, separator, override = given.partition(":")
        if not separator:
            raise ConfigError(f"--set {given}: give NAME:key.path=value, with the name of a model")
        overrides += [override] if of_model == name else []
    return load_config(RunConfig, name if own else COMMON_RUN, overrides)


def _single(
    label: str, config: "RunConfig", arguments: argparse.Namespace, known: dict[str, Any] | None
) -> dict[str, Any]:
    """The entry of one model, measured unless `known` is of this config and these minutes."""
    from hnet.bench.architectures_report import summary

    model = config.model.model_dump(mode="json")
    if known is not None and known["minutes"] == arguments.minutes and known["model"] == model:
        _say(f"{label}: done before")
        return known
    folder = Path(config.output_dir)
    wanted = {"minutes": arguments.minutes, "model": model}
    plan = _planned(folder / "plan.json", wanted)
    if plan is None:
        _say(f"{label}: timing a step")
        seconds = _seconds_per_step(config)
        plan = wanted | {"seconds_per_step": seconds, "steps": _steps(arguments.minutes, seconds)}
        _write_json(folder / "plan.json", plan)
    _say(f"{label}: {plan['steps']} steps of about {plan['seconds_per_step']:.3f} s")
    finished = _with_steps(config, plan["steps"], folder / f"one-{plan['steps']}")
    _hnet("train", _saved(finished, folder / "one.yaml"))
    return summary(finished) | wanted | {"seconds_per_step": plan["seconds_per_step"]}


def _planned(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call, which was cut off, chose for the same."""
    plan: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return plan if wanted.items() <= plan.items() else None


def _two_ranks(label: str, config: "RunConfig", arguments: argparse.Namespace, entry: dict[str, Any]) -> dict[str, Any]:
    """The same on two ranks under ZeRO-3, for `arguments.zero3` minutes."""
    from hnet.bench.architectures_report import summary_of_ranks
    from hnet.config import load_config
    from hnet.training.config import EngineConfig

    if entry.get("zero3", {}).get("minutes") == arguments.zero3:
        _say(f"{label}: done before on two ranks")
        known: dict[str, Any] = entry["zero3"]
        return known
    folder = Path(config.output_dir)
    steps = _steps(arguments.zero3, entry["seconds_per_step"] * _RANKS_SLOWER)
    sharded = _with_steps(config, steps, folder / f"zero3-{steps}")
    sharded = sharded.model_copy(update={"engine": load_config(EngineConfig, "zero3")})
    _say(f"{label}: {steps} steps on {_RANKS} ranks under ZeRO-3")
    words = ("--cpu", f"--gpus-per-node={_RANKS}", "--no-preflight", "--max-restarts=0")
    _hnet("launch", _saved(sharded, folder / "zero3.yaml"), *words)
    return summary_of_ranks(sharded) | {"minutes": arguments.zero3, "ranks": _RANKS}


def _seconds_per_step(config: "RunConfig") -> float:
    folder = Path(config.output_dir)
    report = folder / "speed.json"
    options = (f"--steps={_TIMED_STEPS}", f"--warmup={_WARMUP_STEPS}", "--json", str(report))
    _hnet("bench", "train", _saved(_with_steps(config, 1000, folder / "speed"), folder / "speed.yaml"), *options)
    return float(json.loads(report.read_text(encoding="utf-8"))["measured"]["seconds"]["median"])


def _steps(minutes: float, seconds: float) -> int:
    return max(_VALIDATIONS, round(60 * minutes / seconds))


def _with_steps(config: "RunConfig", steps: int, folder: Path) -> "RunConfig":
    """`config` with so many steps, scored a dozen times on the way."""
    every = max(1, steps // _VALIDATIONS)
    regular = {"validate_every": every, "checkpoint_every": 4 * every}
    training = config.training.model_copy(update={"steps": steps} | regular)
    return config.model_copy(update={"output_dir": str(folder), "training": training})


def _saved(config: "RunConfig", path: Path) -> str:
    from hnet.config import save_config

    path.parent.mkdir(parents=True, exist_ok=True)
    save_config(config, path)
    return str(path)


def _hnet(*arguments: str) -> None:
    """Run a command of ours. Raises CalledProcessError if it fails."""
    subprocess.run([sys.executable, "-m", "hnet", *arguments], check=True)


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, flush=True)
