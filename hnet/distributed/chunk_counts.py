"""`ChunkCounts`: what a model made of real windows of text, written by `hnet bench chunks` and replayed by the planner.

Imports no torch.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet.errors import DataError


@dataclass(frozen=True, slots=True)
class ChunkCounts:
    """W windows in the order of the stream, on a model of S stages."""

    units: NDArray[np.int64]
    """(W, S) units that entered each stage, outermost first."""
    features: NDArray[np.float64]
    """(W, 512) what the chunk predictor is told of each, `byte_features`."""
    context: NDArray[np.float64]
    """(W,) mean document length over units: sum of squared lengths over sum of lengths."""

    def save(self, path: Path) -> None:
        """Write a compressed .npz; about 300 bytes a window."""
        features = self.features.astype(np.uint32 if self.features.max() >= 1 << 16 else np.uint16)
        context = self.context.astype(np.float32)
        with path.open("wb") as file:
            np.savez_compressed(file, units=self.units.astype(np.uint32), features=features, context=context)

    @classmethod
    def load(cls, path: Path) -> "ChunkCounts":
        """Raises DataError if the file is not one that `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                counts = cls(
                    arrays["units"].astype(np.int64),
                    arrays["features"].astype(np.float64),
                    arrays["context"].astype(np.float64),
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read as chunk counts ({error}); write it with `hnet bench chunks`"
            ) from error
        if counts.units.ndim != 2 or not len(counts.units) == len(counts.features) == len(counts.context):
            raise DataError(f"{path}: its arrays do not fit each other; write it again with `hnet bench chunks`")
        return counts
