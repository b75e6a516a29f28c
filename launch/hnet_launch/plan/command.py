"""`hnet plan`: arguments and what they call. Imports nothing heavy before it runs."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnet.errors import ConfigError, UserError

if TYPE_CHECKING:
    from rich.console import Console

    from hnet.training.config import RunConfig
    from hnet_launch.plan.assumptions import Assumptions

_REPLAY: dict[str, Any] = {"ranks": None, "windows_per_rank": 8, "micro_batches": 1, "exchange": 8, "png": None}
"""Options of a simulation alone, with their defaults."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments beside RUN.yaml and its overrides."""
    parser.add_argument("--cluster", metavar="NAME", help="a file or a name in configs/clusters")
    parser.add_argument("--nodes", type=int, metavar="N", help="number of machines")
    parser.add_argument("--gpus-per-node", type=int, metavar="G", help="GPUs of each")
    parser.add_argument("--gpu", metavar="NAME", help="such as H100, A100, H200, L40S")
    parser.add_argument(
        "--bytes-per-chunk",
        metavar="A,B",
        help="expected bytes per chunk after each chunking stage (default: 78 %% of the targets' product)",
    )
    parser.add_argument("--utilization", type=float, metavar="X", help="share of the GPU's rate while it computes")
    parser.add_argument("--overlap", type=float, metavar="X", help="share of communication that computation hides")
    parser.add_argument("--waiting", type=float, metavar="X", help="share of time lost to the slowest rank")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write the plan as JSON, or a list of plans, or the replay"
    )
    group = parser.add_argument_group("comparing")
    group.add_argument("--models", metavar="A,B", help="print a Markdown table of these, each with what fits it best")
    group.add_argument("--clusters", metavar="X,Y", help="on these (default: h100_1,h100_8,h100_8x8)")
    group = parser.add_argument_group("replaying recorded chunk counts")
    group.add_argument("--simulate", type=Path, metavar="COUNTS.npz", help="written by hnet bench chunks")
    group.add_argument("--ranks", metavar="N,N", help="numbers of ranks (default: 8 to 4096, doubling)")
    group.add_argument("--windows-per-rank", type=int, metavar="W", help="each step (default: %(default)s)")
    group.add_argument("--micro-batches", type=int, metavar="M", help="each step (default: %(default)s)")
    group.add_argument("--exchange", type=int, metavar="K", help="ranks of a group (default: %(default)s)")
    group.add_argument("--png", type=Path, metavar="OUT", help="draw the lost time over the number of ranks")
    parser.set_defaults(**_REPLAY)


def run(arguments: argparse.Namespace) -> None:
    """Print the plan of a run, or of its simulation. Raises UserError for bad input."""
    from rich.console import Console

    from hnet.config import load_config
    from hnet.training.config import RunConfig

    config = load_config(RunConfig, arguments.config, arguments.overrides)
    report: Any
    if arguments.models is not None:
        report = _compare(arguments, config)
    elif arguments.clusters is not None:
        raise ConfigError("--clusters is for --models alone: give --cluster NAME for one plan")
    elif arguments.simulate is not None:
        report = _simulate(arguments, config, Console())
    else:
        report = _plan(arguments, config, Console())
    if arguments.json is not None:
        _write(arguments.json, report)


def _write(path: Path, report: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json {path} cannot be written ({error}); give a file that can") from error


def _plan(arguments: argparse.Namespace, config: "RunConfig", console: "Console") -> dict[str, Any]:
    from hnet.config import load_config
    from hnet_launch.cluster import ClusterConfig
    from hnet_launch.plan.planner import plan_run
    from hnet_launch.plan.report import as_json, print_plan

    cluster = load_config(ClusterConfig, arguments.cluster or {}, _cluster_overrides(arguments))
    plan = plan_run(config, cluster, _assumptions(arguments, config))
    print_plan(plan, console)
    return as_json(plan)


def _cluster_overrides(arguments: argparse.Namespace) -> list[str]:
    given = {name: getattr(arguments, name) for name in ("nodes", "gpus_per_node", "gpu")}
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def _compare(arguments: argparse.Namespace, config: "RunConfig") -> list[dict[str, Any]]:
    from hnet.config import load_config
    from hnet_launch.cluster import ClusterConfig
    from hnet_launch.plan.comparison import compare, table
    from hnet_launch.plan.report import as_json

    for name in ("cluster", "nodes", "gpus_per_node"):
        if getattr(arguments, name) is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} is not for --models: name the clusters with --clusters X,Y")
    for name, unset in (_REPLAY | {"simulate": None}).items():
        if getattr(arguments, name) != unset:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} replays one model and --models compares several: leave out one of them")
    names = (arguments.clusters or "h100_1,h100_8,h100_8x8").split(",")
    clusters = [load_config(ClusterConfig, name, _cluster_overrides(arguments)) for name in names]
    plans = list(compare(config, arguments.models.split(","), clusters, lambda loaded: _assumptions(arguments, loaded)))
    print("\n".join(table(plans)))
    return [{"model": model} | as_json(plan) for model, plan in plans]


def _simulate(arguments: argparse.Namespace, config: "RunConfig", console: "Console") -> dict[str, Any]:
    from hnet.distributed.chunk_counts import ChunkCounts
    from hnet_launch.plan.simulate import simulate
    from hnet_launch.plan.simulation_report import draw, made_with, print_simulation

    ranks = [8 << doubling for doubling in range(10)]
    if arguments.ranks is not None:
        ranks = _integers("--ranks", arguments.ranks)
    sizes = {"windows-per-rank": arguments.windows_per_rank, "micro-batches": arguments.micro_batches}
    sizes["exchange"] = arguments.exchange
    for name, value in ({"ranks": min(ranks, default=0)} | sizes).items():
        if value < 1:
            raise ConfigError(f"--{name}: give integers of at least 1")
    simulation = simulate(
        ChunkCounts.load(arguments.simulate),
        config.model,
        ranks,
        windows_per_rank=arguments.windows_per_rank,
        micro_batches=arguments.micro_batches,
        exchange_group=arguments.exchange,
    )
    print_simulation(simulation, console)
    if arguments.png is not None:
        draw(simulation, arguments.png)
    return {"made_with": made_with(arguments.simulate, config.model)} | asdict(simulation)


def _assumptions(arguments: argparse.Namespace, config: "RunConfig") -> "Assumptions":
    from hnet_launch.plan.assumptions import Assumptions, check_bytes_per_chunk, expected_bytes_per_chunk

    expected = expected_bytes_per_chunk(config.model)
    if arguments.bytes_per_chunk is not None:
        expected = check_bytes_per_chunk(config.model, _numbers("--bytes-per-chunk", arguments.bytes_per_chunk))
    given = {}
    for name in ("utilization", "overlap", "waiting"):
        value = getattr(arguments, name)
        if value is not None:
            if not 0 <= value <= 1 or (name, value) in (("utilization", 0), ("waiting", 1)):
                raise ConfigError(f"--{name} {value:g}: give a share between 0 and 1")
            given[name] = value
    return Assumptions(expected, **given)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise ConfigError(f"{option} '{text}': give numbers with commas between, such as 2.6,7.0") from None


def _integers(option: str, text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        raise ConfigError(f"{option} '{text}': give integers with commas between, such as 8,64") from None
