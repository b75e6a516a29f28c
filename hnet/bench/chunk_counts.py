"""`hnet bench chunks`: how many chunks a trained model makes of each window of text that it has not seen."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import hnet
from hnet.config import load_config
from hnet.data.batch import Batch
from hnet.data.collate import collate
from hnet.data.config import DataConfig
from hnet.data.encode import EncodedDocuments
from hnet.data.pack import make_packer
from hnet.data.stream import open_mixture
from hnet.data.tokenizer import load_tokenizer
from hnet.distributed.chunk_counts import ChunkCounts
from hnet.distributed.chunk_predictor import byte_features
from hnet.errors import ConfigError, DataError
from hnet.model.loading import CONFIG, checkpoint_folder
from hnet.segmentation.layout import Layout
from hnet.training.config import RunConfig


@torch.no_grad()
def record_chunks(
    checkpoint: str | Path,
    out: Path,
    *,
    num_windows: int,
    sequence_length: int | None = None,
    console: Console | None = None,
) -> ChunkCounts:
    """Run the model over the windows that its training would have seen next, and write their counts to `out`.

    The run's data is read from its beginning in the run's own order, past all that the steps up to the checkpoint took.
    The routers are those of the checkpoint throughout.

    Args:
        sequence_length: units of a window; None: as in training.
    Raises:
        ConfigError: the model makes no chunks. CheckpointError, DataError: as in loading and training.
    """
    folder = checkpoint_folder(Path(checkpoint))
    config = load_config(RunConfig, folder / CONFIG)
    if len(config.model.stages) == 1:
        raise ConfigError(f"{checkpoint}: the model has one stage and makes no chunks; give a hierarchical one")
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out}: the folder {out.absolute().parent} does not exist: make it first")
    seen = json.loads((folder / "state.json").read_text())["step"] * config.training.global_batch_bytes
    data = config.data.model_copy(update={"sequence_length": sequence_length or config.data.sequence_length})
    model = hnet.load(checkpoint, device="cuda" if torch.cuda.is_available() else "cpu")
    units, features, context = [], [], []
    device = next(model.parameters()).device
    for batch in _unseen_windows(data, config.training.seed, seen, num_windows, model.layout()):
        marks = None if batch.marks is None else batch.marks.to(device)
        stages = model(batch.input_ids.to(device), cu_seqlens=batch.cu_seqlens.to(device), marks=marks).stages
        units.append([batch.input_ids.numel(), *(stage.num_chunks for stage in stages)])
        features.append(byte_features(batch.input_ids.numpy()))
        lengths = np.diff(batch.cu_seqlens.numpy()).astype(np.float64)
        context.append((lengths**2).sum() / lengths.sum())
    counts = ChunkCounts(np.array(units), np.stack(features), np.array(context))
    counts.save(out)
    _print(console or Console(), counts, out)
    return counts


def _unseen_windows(data: DataConfig, seed: int, seen: int, num_windows: int, layout: Layout) -> Iterator[Batch]:
    """The first `num_windows` windows of the global stream after `seen` units, one window a batch."""
    mixture, _ = open_mixture(data.train, data, seed=seed)
    packer = make_packer(EncodedDocuments(mixture, load_tokenizer(data.tokenizer)), data.sequence_length, data.packing)
    passed = 0
    while passed < seen:
        passed += sum(piece.stop - piece.start for piece in next(packer))
    for _ in range(num_windows):
        yield collate([next(packer)], layout)


def _print(console: Console, counts: ChunkCounts, out: Path) -> None:
    console.print(f"{out}: {len(counts.units):,} windows", highlight=False)
    for stage, column in enumerate(counts.units.T[1:], start=1):
        sizes = counts.units[:, 0] / column
        low, high = np.quantile(sizes, [0.01, 0.99])
        console.print(
            f"stage {stage}: {counts.units[:, 0].sum() / column.sum():.2f} bytes per chunk, "
            f"1 % of windows below {low:.2f} and 1 % above {high:.2f}",
            highlight=False,
        )
