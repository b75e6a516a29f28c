"""`hnet import`: its arguments, and the call. Nothing heavy is imported before it is used."""

import argparse
from pathlib import Path

HELP = "read a BLT of Hugging Face's transformers, its entropy model included, as a checkpoint"
EXAMPLE = "hnet import downloads/blt-1b runs/blt-1b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", type=Path, metavar="DIR", help="a folder that `save_pretrained` wrote")
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="folder to write; must not exist")


def run(arguments: argparse.Namespace) -> None:
    """Import, and say what was written."""
    from hnet.interop.blt import import_blt

    import_blt(arguments.source, arguments.output)
    print(f"{arguments.output}: a checkpoint for hnet generate, inspect and export")
