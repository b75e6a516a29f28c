"""`Packed`: the one type that crosses stage borders, and helpers on `cu_seqlens`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hnet.model.sharding import Shard


@dataclass(frozen=True, slots=True)
class Packed:
    """Documents laid end to end, without padding.

    `values` is (T, D); `cu_seqlens` is (B + 1,) int32, from 0 to T, strictly increasing. No document has more than
    `max_seqlen` units, if that is known to the host; stages inside have no more, so they need not ask the device.

    With a `shard` these are one process's piece of a longer pack: the first document may have begun on another process
    and the last may go on there.

    `marks` (T,) uint8 says where chunks begin, for boundaries that come with the units: the codes of
    `hnet.segmentation.rule`. `rows` (B,) int64 are the documents' rows in a cache, -1 for one whose state is not kept;
    None: the documents in order.
    """

    values: Tensor
    cu_seqlens: Tensor
    max_seqlen: int | None = None
    shard: Shard | None = None
    marks: Tensor | None = None
    rows: Tensor | None = None

    def cache_rows(self) -> Tensor:
        """(B,) int64."""
        if self.rows is not None:
            return self.rows
        return torch.arange(self.cu_seqlens.numel() - 1, device=self.cu_seqlens.device)

    def kept(self) -> tuple[Tensor, Tensor]:
        """Documents whose state a cache keeps, and their rows, both (K,) int64."""
        rows = self.cache_rows()
        kept = (rows >= 0).nonzero().squeeze(1)
        return kept, rows[kept]


def positions(cu_seqlens: Tensor, total: int) -> Tensor:
    """Position of every unit within its document: (T,) int64."""
    lengths = cu_seqlens.diff().long()
    starts = torch.repeat_interleave(cu_seqlens[:-1].long(), lengths, output_size=total)
    return torch.arange(total, device=cu_seqlens.device) - starts


def next_in_document(ids: Tensor, cu_seqlens: Tensor, ignore: int) -> Tensor:
    """Labels (T,) int64: the following id of the same document, `ignore` at each document's last unit."""
    labels = ids.roll(-1)
    labels[cu_seqlens[1:].long() - 1] = ignore
    return labels


def pack_padded(ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L) ids and a 0/1 mask -> packed ids (T,), cu_seqlens (B + 1,), flat index (T,) into B * L.

    Raises ValueError for a row without any real position, or one whose real positions are not contiguous.
    """
    mask = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    lengths = mask.sum(1)
    if bool((lengths == 0).any()):
        raise ValueError("every row of attention_mask needs at least one real position")
    if bool(((mask[:, 1:] != mask[:, :-1]).sum(1) + mask[:, 0] + mask[:, -1] > 2).any()):
        raise ValueError("attention_mask must be contiguous in every row: padding on the left and right only")
    index = mask.flatten().nonzero().squeeze(1)
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()
    return ids.flatten()[index], cu_seqlens, index
