"""The `hnet` command: arguments in, one call, errors as messages. Nothing heavy is imported before it is used."""

import argparse
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from hnet import __version__
from hnet.argument_types import integers, natural, number, positive, words
from hnet.errors import UserError

if TYPE_CHECKING:
    from hnet.data.tokenizer import Tokenizer

BAD_INPUT = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line like every other bad input: one message, no usage dump."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        # An abbreviated option would escape whoever looks for it by name, such as the hiding of secrets.
        super().__init__(*arguments, **{"allow_abbrev": False, **keywords})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}\nSee: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: str) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            nearest = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
            self.error(f"no {action.metavar or action.dest} '{value}'{hint} There are: {', '.join(names)}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    try:
        arguments, rest = _parser().parse_known_args(argv)
        _take_overrides(arguments, rest)
        arguments.run(arguments)
        sys.stdout.flush()
        return 0
    except UserError as error:
        if not error.on_every_rank or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say, and the flush at exit must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _take_overrides(arguments: argparse.Namespace, rest: list[str]) -> None:
    """argparse gives up on `key=value` words that follow an option; anything else unknown is an error."""
    options = [word for word in rest if word.startswith("-")]
    if options or (rest and not hasattr(arguments, "overrides")):
        arguments.parser.error(f"unknown argument: {' '.join(options or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="hnet", description="Hierarchical language models, from bytes.")
    parser.add_argument("--version", action="version", version=f"hnet {__version__}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_train(commands)
    _add_data(commands)
    _add_generate(commands)
    _add_inspect(commands)
    _add_export(commands)
    _add_import(commands)
    _add_bench(commands)
    _add_cluster_commands(commands)
    return parser


def _command(
    commands: "argparse._SubParsersAction[_Parser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    help: str,
    example: str,
) -> _Parser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="RUN.yaml", help="a run's YAML file, or the name of one in configs/runs")
    parser.add_argument(
        "overrides",
        metavar="key.path=value",
        nargs="*",
        default=[],
        help="change the file's value, such as training.steps=100",
    )


def _add_train(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "train",
        _train,
        "train a model; the same command again resumes",
        "hnet train configs/runs/quickstart.yaml training.steps=100 output_dir=runs/short\n"
        "  torchrun --nproc_per_node 2 -m hnet.train configs/runs/quickstart.yaml",
    )
    _add_config(parser)
    # The deepspeed launcher passes it to every script; ranks come from the environment instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def _add_data(commands: "argparse._SubParsersAction[_Parser]") -> None:
    group = commands.add_parser("data", help="prepare training text", description="Prepare training text.")
    actions = group.add_subparsers(metavar="action", required=True)
    parser = _command(
        actions,
        "prepare",
        _data_prepare,
        "write text, jsonl, parquet, arrow or a Hub dataset as a sharded byte store",
        "hnet data prepare 'corpus/*.jsonl' stores/corpus --column text",
    )
    parser.add_argument("source", metavar="SOURCE", help="a file, a folder, a glob in quotes, or a dataset on the Hub")
    parser.add_argument("output", metavar="OUT", help="folder to write; must not exist")
    parser.add_argument("--column", default="text", help="column that holds the text (default: %(default)s)")
    parser.add_argument("--split", default="train", help="split of a Hub dataset (default: %(default)s)")
    parser.add_argument("--subset", help="configuration name of a Hub dataset")
    parser.add_argument("--streaming", action="store_true", help="read a Hub dataset as it downloads, keep no copy")
    parser.add_argument("--split-on", metavar="TEXT", help="text that ends a document, such as '\\n\\n'")
    parser.add_argument("--shard-bytes", type=positive, default=1 << 28, help="bytes in a shard (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    from hnet.evaluation.calibrate_command import EXAMPLE, HELP, add_arguments, run

    add_arguments(_command(actions, "calibrate", run, HELP, EXAMPLE))


def _add_generate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "generate",
        _generate,
        "continue a text",
        "hnet generate runs/quickstart --prompt 'It was ' --max-bytes 200",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a run folder or a checkpoint folder")
    parser.add_argument("--prompt", required=True, help="text to continue; may be empty")
    parser.add_argument("--max-bytes", type=positive, default=200, help="bytes to add at most (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=number(0.0), default=1.0, help="0 takes the likeliest byte (default: %(default)s)"
    )
    parser.add_argument(
        "--top-p", type=number(0.0, 1.0), default=1.0, help="share of probability kept (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, help="the same seed gives the same text (default: %(default)s)"
    )


def _add_inspect(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        commands,
        "inspect",
        _inspect,
        "show the boundaries of every stage on a text",
        "hnet inspect runs/quickstart --text 'The quick brown fox' --html boundaries.html",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a run folder or a checkpoint folder")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--text", help="the text itself")
    source.add_argument("--file", type=Path, help="a file; need not be valid UTF-8")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write a self-contained page")
    parser.add_argument("--png", type=Path, metavar="OUT", help="write a picture")


def _add_export(commands: "argparse._SubParsersAction[_Parser]") -> None:
    from hnet.interop.export import EXAMPLE, HELP, add_arguments, run

    add_arguments(_command(commands, "export", run, HELP, EXAMPLE))


def _add_import(commands: "argparse._SubParsersAction[_Parser]") -> None:
    from hnet.interop.import_ import EXAMPLE, HELP, add_arguments, run

    add_arguments(_command(commands, "import", run, HELP, EXAMPLE))


def _add_bench(commands: "argparse._SubParsersAction[_Parser]") -> None:
    group = commands.add_parser("bench", help="measure speed and memory", description="Measure speed and memory.")
    actions = group.add_subparsers(metavar="benchmark", required=True)
    parser = _command(
        actions,
        "train",
        _bench_train,
        "training speed: bytes/s, FLOPs, MFU and peak memory as medians with their spread",
        "hnet bench train configs/runs/quickstart.yaml model=hnet_10m --steps 20 --json bench.json",
    )
    _add_config(parser)
    parser.add_argument("--steps", type=positive, default=20, help="steps that are timed (default: %(default)s)")
    parser.add_argument("--warmup", type=natural, default=3, help="steps before them (default: %(default)s)")
    parser.add_argument(
        "--bytes-per-chunk",
        type=number(1.0),
        metavar="N",
        help="random boundaries at this rate instead of the router's, which is untrained here",
    )
    parser.add_argument(
        "--against", choices=["reference", "triton"], help="and the ratio to training with these operations instead"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the result as JSON")
    _add_bench_kernels(actions)
    _add_bench_architectures(actions)
    parser = _command(
        actions,
        "chunks",
        _bench_chunks,
        "chunks of each window of text that a run has not seen, for hnet plan --simulate",
        "hnet bench chunks runs/quickstart --windows 2048 --out counts.npz",
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="a run folder or a checkpoint folder")
    parser.add_argument("--windows", type=positive, default=1024, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--sequence-length", type=positive, metavar="L", help="of a window (default: as trained)")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz", help="file to write")


def _add_bench_kernels(actions: "argparse._SubParsersAction[_Parser]") -> None:
    parser = _command(
        actions,
        "kernels",
        _bench_kernels,
        "every op of hnet_kernels: time, bandwidth over a copy's, and other ways to the same result",
        "hnet bench kernels --sizes 65536,1048576 --dtypes bf16 --out results",
    )
    parser.add_argument("--ops", type=words, metavar="A,B", help="ops or cases by name (default: all)")
    parser.add_argument(
        "--sizes", type=integers, default=[65536, 1048576], metavar="T,T", help="packed units (default: 65536,1048576)"
    )
    parser.add_argument("--width", type=positive, default=1024, help="D, the length of a row (default: %(default)s)")
    parser.add_argument("--units-per-chunk", type=positive, default=5, help="on average (default: %(default)s)")
    parser.add_argument(
        "--dtypes", type=words, default=["bf16", "fp32"], metavar="A,B", help="bf16, fp32 (default: both)"
    )
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if there is one")
    parser.add_argument("--rounds", type=positive, default=20, help="timings of everything (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write kernels.json and kernels.png there")


def _add_bench_architectures(actions: "argparse._SubParsersAction[_Parser]") -> None:
    from hnet.bench.architectures import EXAMPLE, HELP, add_arguments, run

    add_arguments(_command(actions, "architectures", run, HELP, EXAMPLE))


def _add_cluster_commands(commands: "argparse._SubParsersAction[_Parser]") -> None:
    # A bare checkout needs only the root and kernels/ on its path to train.
    if importlib.util.find_spec("hnet_launch") is None:
        return
    from hnet_launch.commands import COMMANDS

    for command in COMMANDS:
        parser = _command(commands, command.name, command.run, command.help, command.example)
        _add_config(parser)
        command.add_arguments(parser)


def _train(arguments: argparse.Namespace) -> None:
    from hnet.config import load_config
    from hnet.training.config import RunConfig

    config = load_config(RunConfig, arguments.config, arguments.overrides)
    # Only now: a mistake in the configuration is reported before torch has loaded.
    from hnet.training.loop import train

    train(config)


def _data_prepare(arguments: argparse.Namespace) -> None:
    from hnet.config import load_config
    from hnet.data.config import SourceConfig
    from hnet.data.prepare import prepare, unescape

    fields = {name: getattr(arguments, name) for name in ("column", "split", "subset", "streaming")}
    split_on = None if arguments.split_on is None else unescape(arguments.split_on)
    source = load_config(SourceConfig, {"path": arguments.source, "split_on": split_on, **fields})
    summary = prepare(source, arguments.output, shard_bytes=arguments.shard_bytes, progress=not arguments.quiet)
    left_out = f"; {summary.num_empty:,} empty ones left out" if summary.num_empty else ""
    print(
        f"{summary.output}: {summary.num_documents:,} documents, {summary.num_bytes:,} bytes, "
        f"{summary.num_shards:,} shards{left_out}"
    )


def _generate(arguments: argparse.Namespace) -> None:
    from hnet.data.tokenizer import is_of_bytes
    from hnet.inference.generation import stream
    from hnet.model.loading import load

    model = load(arguments.checkpoint)
    tokenizer = None if is_of_bytes(model.config.vocab_size) else _saved_tokenizer(arguments.checkpoint)
    # The bytes that were typed, also where they are not UTF-8.
    prompt = os.fsencode(arguments.prompt)
    pieces = stream(
        model,
        prompt,
        max_bytes=arguments.max_bytes,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        tokenizer=tokenizer,
    )
    print(prompt.decode(errors="replace"), end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _saved_tokenizer(checkpoint: str) -> "Tokenizer":
    """The tokenizer of the run that wrote a checkpoint."""
    from hnet.config import load_config
    from hnet.data.tokenizer import load_tokenizer
    from hnet.model.loading import CONFIG, checkpoint_folder
    from hnet.training.config import RunConfig

    return load_tokenizer(load_config(RunConfig, checkpoint_folder(Path(checkpoint)) / CONFIG).data.tokenizer)


def _inspect(arguments: argparse.Namespace) -> None:
    from hnet.inspect.command import run

    run(arguments.checkpoint, text=arguments.text, file=arguments.file, html=arguments.html, png=arguments.png)


def _bench_train(arguments: argparse.Namespace) -> None:
    from hnet.config import load_config
    from hnet.training.config import RunConfig

    config = load_config(RunConfig, arguments.config, arguments.overrides)
    from hnet.bench.train import bench_train

    bench_train(
        config,
        steps=arguments.steps,
        warmup=arguments.warmup,
        json_path=arguments.json,
        bytes_per_chunk=arguments.bytes_per_chunk,
        against=arguments.against,
    )


def _bench_kernels(arguments: argparse.Namespace) -> None:
    from hnet.bench.kernels import bench_kernels, make_plan

    plan = make_plan(
        arguments.ops,
        arguments.sizes,
        width=arguments.width,
        units_per_chunk=arguments.units_per_chunk,
        dtypes=arguments.dtypes,
        device=arguments.device,
        rounds=arguments.rounds,
    )
    bench_kernels(plan, out=arguments.out)


def _bench_chunks(arguments: argparse.Namespace) -> None:
    from hnet.bench.chunk_counts import record_chunks

    window = arguments.sequence_length
    record_chunks(arguments.checkpoint, arguments.out, num_windows=arguments.windows, sequence_length=window)
