"""Embeddings of hashed n-grams (BLT, arXiv 2412.09871, section 3.2.1)."""

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hnet.model.cache import StateCache
from hnet.model.config.embeddings import HashNgramConfig
from hnet.model.packed import Packed
from hnet_kernels import hash_ngram

if TYPE_CHECKING:
    from hnet.model.initialization import Filler

PRIMES = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)
"""Of the hash functions, in the order in which facebookresearch/blt takes them."""
BLT_NUMBERS = (*range(4, 258), 1, 2, 258, 259, 0, 3)
"""BLT's number of each of our ids: bytes 0 to 253, BOS, EOS, then what text never has: bytes 254 and 255, its symbol
for the beginning of an example, and its BPE delimiter."""


class HashNgrams(nn.Module):
    """Adds a row of each of N tables (N, V, D) to every unit. Units before a document's first count as number 0."""

    def __init__(self, width: int, config: HashNgramConfig, *, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.config = config
        self.tables = nn.Parameter(torch.empty(config.num_tables, config.rows, width, device=device))

    def initialize(self, fill: "Filler") -> None:
        """N(0, 1 / sqrt(N)): the sum varies as much as the table of units."""
        fill(self.tables, nn.init.normal_, std=self.config.num_tables**-0.5)

    def forward(self, x: Packed, ids: Tensor, cache: StateCache | None = None) -> Tensor:
        """Rows of the table of units (T, D) in `x`, ids (T,) -> what the outermost stage is given (T, D).

        Raises ValueError for a piece of a pack: n-grams reach over its edge.
        """
        if x.shard is not None:
            raise ValueError("embedding hash_ngram reads units before a piece's first; set sequence_parallel to 1")
        numbers = self._numbers(ids)
        if cache is not None:
            kept, rows = x.kept()
            cache.write("ngram", self._last(numbers, x.cu_seqlens)[kept], rows)
        return self._added(x.values, numbers, x.cu_seqlens)

    def step(self, x: Tensor, ids: Tensor, cache: StateCache, rows: Tensor) -> Tensor:
        """One unit (R, D), ids (R,) of `rows` (R,) -> (R, D)."""
        length = max(self.config.sizes)
        numbers = self._numbers(ids)[:, None]
        window = torch.cat([cache.read("ngram", rows, numbers.new_zeros(len(rows), length - 1)), numbers], 1)
        cache.write("ngram", window[:, 1:], rows)
        cu_seqlens = torch.arange(0, length * len(rows) + 1, length, dtype=torch.int32, device=x.device)
        values = x.new_zeros(len(rows), length, x.shape[1])
        values[:, -1] = x
        return self._added(values.flatten(0, 1), window.flatten(), cu_seqlens).view_as(values)[:, -1]

    def _added(self, values: Tensor, numbers: Tensor, cu_seqlens: Tensor) -> Tensor:
        primes = PRIMES[: self.config.functions]
        return values + hash_ngram(numbers, self.tables, cu_seqlens, self.config.sizes, primes).to(values.dtype)

    def _numbers(self, ids: Tensor) -> Tensor:
        return ids if self.config.numbering == "own" else _blt_numbers(ids.device)[ids]

    def _last(self, numbers: Tensor, cu_seqlens: Tensor) -> Tensor:
        """(B, longest n - 1) last units of every document, zeros before its first."""
        back = torch.arange(max(self.config.sizes) - 1, 0, -1, device=numbers.device)
        unit = cu_seqlens[1:].long()[:, None] - back
        return numbers[unit.clamp(min=0)].where(unit >= cu_seqlens[:-1, None], 0)


@cache
def _blt_numbers(device: torch.device) -> Tensor:
    return torch.tensor(BLT_NUMBERS, device=device)
