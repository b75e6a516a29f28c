"""No way back to units: what the outermost stage gives are its chunks (Byte2Word, arXiv 2211.12677)."""

import torch
from torch import Tensor, nn

from hnet.model.boundaries.boundaries import Boundaries
from hnet.model.cache import StateCache
from hnet.model.chunking import ChunkMap
from hnet.model.config.part import PartSizes
from hnet.model.config.unpools import NoneConfig
from hnet.model.injection import Injection
from hnet.model.packed import Packed


class NoUnpool(nn.Module):
    """Has no steps: a model without units in the end continues no text, and its configuration says so."""

    def __init__(self, sizes: PartSizes, config: NoneConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()

    def forward(
        self,
        chunks: Packed,
        boundaries: Boundaries,
        chunk_map: ChunkMap,
        around: Tensor,
        dtype: torch.dtype,
        cache: StateCache | None = None,
    ) -> tuple[Tensor, Injection | None]:
        """Chunks (M, D) -> the same (M, D) in `dtype`."""
        return chunks.values.to(dtype), None
