"""`hnet data calibrate`: its arguments, and the call. Nothing heavy is imported before it is used."""

import argparse
from pathlib import Path

from hnet.argument_types import number, positive
from hnet.errors import ConfigError

HELP = "find the entropy threshold that gives a number of bytes per chunk on a text"
EXAMPLE = "hnet data calibrate blt_small --scorer runs/blt_scorer --text sample:validation --bytes-per-chunk 4.5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("model", metavar="MODEL", help="a model's YAML file, or the name of one in configs/models")
    parser.add_argument("--scorer", required=True, metavar="CKPT", help="run or checkpoint folder of its scorer")
    parser.add_argument("--text", required=True, metavar="SOURCE", help="a file, a folder, a glob or a prepared store")
    parser.add_argument("--bytes-per-chunk", type=number(1.0), default=4.5, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--max-bytes", type=positive, default=1_000_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--sequence-length",
        type=positive,
        default=2048,
        metavar="L",
        help="of a window (default: %(default)s)",
    )
    parser.add_argument("--write", action="store_true", help="put the threshold into the model's file")


def run(arguments: argparse.Namespace) -> None:
    """Calibrate, print the table, and write the value if asked."""
    file = Path(arguments.model)
    if arguments.write and not file.is_file():
        raise ConfigError(f"--write changes a model's file, and {arguments.model} is not one; give its path")
    # Only now: a wrong command line is reported before torch has loaded.
    from hnet.config import load_config
    from hnet.data.config import DataConfig
    from hnet.evaluation.calibrate import entropy_boundary, find_threshold, measure, print_table, write_threshold
    from hnet.model.config import ModelConfig

    boundary = entropy_boundary(load_config(ModelConfig, arguments.model), arguments.scorer)
    settings = {"validation": arguments.text, "validation_bytes": arguments.max_bytes}
    data = load_config(DataConfig, {"train": arguments.text, "sequence_length": arguments.sequence_length, **settings})
    rule = boundary.rule()
    entropies = measure(rule, data)
    threshold = find_threshold(rule, entropies, arguments.bytes_per_chunk)
    print_table(rule, entropies, arguments.bytes_per_chunk, threshold)
    if arguments.write:
        write_threshold(file, threshold)
        print(f"{file}: threshold {threshold}")
