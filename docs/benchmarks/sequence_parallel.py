"""One training step on one long document, shared by 1, 2 and 4 ranks: memory of a rank, loss and gradient norm.

    python docs/benchmarks/sequence_parallel.py --bytes 1000000

prints a table and writes it to `sequence_parallel.json` beside this file. The chunks are forced to 64 bytes, since an
untrained router's are short and full attention over them would take hours on a CPU.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from hnet.bench.machine import describe_machine
from hnet.bench.memory import PeakMemory
from hnet.config import load_config
from hnet.data.sample_text import FOLDER
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

MODEL = {
    "stages": [
        {"d_model": 32, "encoder": "m1", "decoder": "m1", "ssm": {"d_state": 16, "head_dim": 16}},
        {"d_model": 64, "main": "T1", "attention": {"num_heads": 4, "rotary_dim": 8}},
    ]
}
BYTES_PER_CHUNK = 64


def one_step(rank: int, tree: dict[str, Any]) -> dict[str, float]:
    """What a rank sees of the first step."""
    with open_run(load_config(RunConfig, tree)) as run:
        run.engine.model.force_bytes_per_chunk(BYTES_PER_CHUNK)
        memory, began = PeakMemory(run.engine.device), time.perf_counter()
        result = run.next_step()
        seconds = time.perf_counter() - began
        growth = memory.growth()
    assert not result.skipped and growth is not None
    return {
        "peak_memory_bytes": growth,
        "seconds": seconds,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "document_bytes": result.context,
        "chunks": result.stages[0].chunks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=int, default=1_000_000, help="length of the document")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        text = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.txt")))
        document = Path(folder) / "document.txt"
        document.write_bytes((text * (arguments.bytes // len(text) + 1))[: arguments.bytes])
        for ranks in arguments.ranks:
            tree = {
                "output_dir": f"{folder}/{ranks}",
                "model": MODEL,
                # BOS and EOS come with the document.
                "data": {"train": str(document), "sequence_length": arguments.bytes + 2},
                "training": {"steps": 1, "global_batch_bytes": arguments.bytes + 2},
                "engine": {"sequence_parallel": ranks},
                "logging": {"progress": False},
            }
            results = run_distributed(one_step, ranks, tree, timeout=3600)
            peaks = [result["peak_memory_bytes"] for result in results]
            row = {"ranks": ranks, **results[0], "peak_memory_bytes": max(peaks), "peak_memory_bytes_by_rank": peaks}
            rows.append(row)
            print(
                f"{ranks} ranks: {max(peaks) / 2**20:,.0f} MiB a rank, {row['seconds']:.1f} s, loss {row['loss']:.7f}, "
                f"gradient norm {row['grad_norm']:.7f}, {row['chunks']} chunks of {row['document_bytes']:.0f} bytes"
            )
    report = {
        "benchmark": "sequence_parallel",
        "machine": describe_machine(torch.device("cpu")),
        "model": MODEL,
        "rows": rows,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
