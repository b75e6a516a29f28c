"""`hnet export`: its arguments, and the call. Nothing heavy is imported before it is used."""

import argparse
from pathlib import Path

from hnet.argument_types import positive

HELP = "write a run's latest weights, however they are sharded, as plain safetensors"
EXAMPLE = "hnet export runs/quickstart exported/quickstart"
MAX_SHARD_BYTES = 5_000_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a run folder or a checkpoint folder")
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="folder to write; must not exist")
    parser.add_argument(
        "--max-shard-bytes",
        type=positive,
        default=MAX_SHARD_BYTES,
        metavar="N",
        help="bytes of a file, which is also the memory needed; more become several files (default: %(default)s)",
    )
    parser.add_argument(
        "--format",
        choices=["hnet", "blt"],
        default="hnet",
        metavar="FORMAT",
        help="hnet, or blt for a BLT that Hugging Face's transformers reads (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Export, and say what was written."""
    if arguments.format == "blt":
        from hnet.interop.blt import export_blt

        export_blt(arguments.checkpoint, arguments.output)
        print(f"{arguments.output}: a BLT for transformers' BltForCausalLM.from_pretrained")
        return
    from hnet.interop.consolidate import consolidate

    files = consolidate(arguments.checkpoint, arguments.output, max_shard_bytes=arguments.max_shard_bytes)
    print(f"{arguments.output}: {sum(path.stat().st_size for path in files):,} bytes in {len(files)} files")
