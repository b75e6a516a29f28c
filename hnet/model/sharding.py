"""One pack held by several processes, each a contiguous piece of its units: who holds what, and what passes between.

Pure layout: the messages themselves go through a `Peers` object that somebody else brings. Every process calls the same
methods in the same order, and what it receives stays connected to what it sent, also where nothing was sent: the
backward pass is the same messages the other way round, and waits for nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Piece = tuple[int, int]
"""First unit and the one after the last, counted over the whole pack."""


class Peers(Protocol):
    """The processes that hold one pack."""

    @property
    def rank(self) -> int:
        """This process among them, from 0; pieces lie in this order."""

    @property
    def size(self) -> int:
        """How many there are."""

    def exchange(self, rows: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Differentiable all-to-all: of `rows` (sum(send), ...) the next send[r] go to process r; the result
        (sum(receive), ...) has what came, by sender."""

    def gather(self, counts: Tensor) -> Tensor:
        """(N,) int64 of every process as (size, N) on the CPU; not differentiable."""


def move(peers: Peers, rows: Tensor, held: Sequence[Piece], wanted: Sequence[Piece]) -> Tensor:
    """From `rows` of held[rank] to those of wanted[rank]. Held pieces are disjoint and ascend, others may overlap."""
    mine, mine_wanted = held[peers.rank], wanted[peers.rank]
    parts = [_overlap(mine, piece) for piece in wanted]
    outgoing = torch.cat([rows[a - mine[0] : b - mine[0]] for a, b in parts])
    incoming = [_overlap(piece, mine_wanted) for piece in held]
    return peers.exchange(outgoing, [b - a for a, b in parts], [b - a for a, b in incoming])


def _overlap(a: Piece, b: Piece) -> Piece:
    start, stop = max(a[0], b[0]), min(a[1], b[1])
    return (start, stop) if start < stop else (a[0], a[0])


def split_evenly(total: int, size: int) -> list[Piece]:
    """`size` pieces of `total`, none longer than another by more than one."""
    return [(rank * total // size, (rank + 1) * total // size) for rank in range(size)]


class Shard:
    """This process's piece of a pack, and exchanges with those that hold the others.

    `cu_seqlens` is of the whole pack, on the CPU. A pack of fewer units than processes is filled up with
    `num_padding` documents of one unit, whose outputs nobody uses, so that every process has something to do.
    """

    def __init__(self, peers: Peers, cu_seqlens: Tensor, pieces: Sequence[Piece], num_padding: int = 0) -> None:
        self.peers, self.pieces, self.num_padding = peers, list(pieces), num_padding
        self.documents = cu_seqlens.cpu().long()
        self.start, self.stop = self.pieces[peers.rank]
        starts = torch.tensor([start for start, _ in self.pieces])
        index = torch.searchsorted(self.documents, starts, right=True) - 1
        self._opened: list[int] = self.documents[index].tolist()
        """For every process, the first unit of the document that its piece begins in."""
        inside = self.documents[(self.documents > self.start) & (self.documents < self.stop)]
        ends = torch.tensor([self.start, self.stop])
        self._local = (torch.cat([ends[:1], inside, ends[1:]]) - self.start).int()
        # Plain numbers, known beforehand: compiled blocks need not leave their graph to ask for them.
        self.num_before = self.start - self._opened[peers.rank]
        """Units of this piece's first document that other processes hold before it."""
        self.num_continued = int(self._local[1]) if self.num_before else 0
        """Units at the beginning of this piece whose document began on another process."""
        self.last_fragment = int(self._local[-2])
        """Where, in this piece, its last document begins or goes on."""
        self.total = int(self.documents[-1])
        """Units of the whole pack, padding included."""
        self.max_seqlen = int(self.documents.diff().max())
        """Units of the longest document."""

    @classmethod
    def even(cls, peers: Peers, cu_seqlens: Tensor, num_padding: int = 0) -> "Shard":
        """Pieces of equal size; `num_padding` documents at the end of `cu_seqlens` are padding already."""
        total = int(cu_seqlens[-1])
        missing = max(0, peers.size - total)
        padding = torch.arange(total + 1, total + missing + 1)
        documents = torch.cat([cu_seqlens.cpu().long(), padding])
        return cls(peers, documents, split_evenly(total + missing, peers.size), num_padding + missing)

    @property
    def num_documents(self) -> int:
        """Documents of the whole pack, padding included."""
        return self.documents.numel() - 1

    @property
    def is_padding(self) -> bool:
        """Whether this piece stands for nothing; then it is one unit."""
        return self.start >= self.total - self.num_padding

    @property
    def num_real(self) -> int:
        """Units of this piece that stand for something."""
        return 0 if self.is_padding else self.stop - self.start

    def cu_seqlens(self, device: torch.device) -> Tensor:
        """(b + 1,) int32: the fragments of documents in this piece, from 0."""
        return self._local.to(device)

    def gather(self, rows: Tensor) -> Tensor:
        """`rows` of all pieces, in order, on every process."""
        return move(self.peers, rows, self.pieces, [(0, self.total)] * self.peers.size)

    def with_halo(self, x: Tensor, cu_seqlens: Tensor, num_units: int) -> tuple[Tensor, Tensor, int]:
        """(halo + T, ...), its cu_seqlens, and halo: up to `num_units` earlier units of the first document are put
        before the T rows of this piece."""
        wanted = [
            (max(start - num_units, opened), start)
            for (start, _), opened in zip(self.pieces, self._opened, strict=True)
        ]
        halo = min(num_units, self.num_before)
        extended = cu_seqlens + halo
        extended[0] = 0
        return torch.cat([move(self.peers, x, self.pieces, wanted), x]), extended, halo

    def carry(self, state: Tensor, log_decay: Tensor) -> Tensor:
        """The state (G, ...) that enters this piece's first document, zero where that begins here.

        `state` is the one after this piece's last fragment, begun at zero; `log_decay` (G,) is the logarithm of what
        that fragment leaves of a state that entered it. Both in float32 or better.
        """
        size, rank, opened = self.peers.size, self.peers.rank, self._opened
        # Process j tells r if a part of the document that r begins in lies in piece j.
        send = [int(j > rank and self.stop > opened[j]) for j in range(size)]
        receive = [int(j < rank and stop > opened[rank]) for j, (_, stop) in enumerate(self.pieces)]
        row = torch.cat([state.flatten(1), log_decay.to(state.dtype)[:, None]], 1)
        rows = self.peers.exchange(row.expand(sum(send), *row.shape), send, receive)
        decays = rows[..., -1]
        # A state fades through all pieces after its own.
        after = torch.cat([decays[1:], torch.zeros_like(decays[:1])]).flip(0).cumsum(0).flip(0)
        return (rows[..., :-1] * after.exp()[..., None]).sum(0).view(state.shape)

    def heads_of(self, rank: int, num_heads: int) -> Piece:
        """The attention heads that process `rank` works on for all units."""
        return split_evenly(num_heads, self.peers.size)[rank]

    def to_heads(self, x: Tensor) -> Tensor:
        """(T, K, H, P) of this piece's units -> (total, K, h, P): this process's heads at all units.

        DeepSpeed-Ulysses, arXiv 2309.14509; the heads need not divide evenly.
        """
        (_, inputs, num_heads, width), size = x.shape, self.peers.size
        heads = [self.heads_of(rank, num_heads) for rank in range(size)]
        outgoing = torch.cat([x[:, :, a:b].flatten() for a, b in heads])
        own = heads[self.peers.rank][1] - heads[self.peers.rank][0]
        send = [x.shape[0] * inputs * (b - a) * width for a, b in heads]
        receive = [(stop - start) * inputs * own * width for start, stop in self.pieces]
        return self.peers.exchange(outgoing, send, receive).view(self.total, inputs, own, width)

    def to_units(self, x: Tensor, num_heads: int) -> Tensor:
        """(total, h, P), this process's heads at all units -> (T, H, P) of this piece's units."""
        (_, own, width), size = x.shape, self.peers.size
        num_units = self.stop - self.start
        heads = [self.heads_of(rank, num_heads) for rank in range(size)]
        send = [(stop - start) * own * width for start, stop in self.pieces]
        receive = [num_units * (b - a) * width for a, b in heads]
        parts = self.peers.exchange(x.flatten(), send, receive).split(receive)
        return torch.cat([part.view(num_units, b - a, width) for part, (a, b) in zip(parts, heads, strict=True)], 1)

    def deal(self, mask: Tensor) -> "Deal":
        """Where the chunks go that `mask` (T,), the boundaries of this piece, opens."""
        local = self._local.long()
        opened = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)]).index_select(
            0, local.to(mask.device)
        )
        first = int(torch.searchsorted(self.documents, self.start, right=True)) - 1
        counts = opened.new_zeros(self.num_documents + 1)
        counts[first : first + local.numel() - 1] = opened.diff()
        counts[-1] = mask[0]
        everyone = self.peers.gather(counts)
        begins_with_chunk, everyone = everyone[:, -1].tolist(), everyone[:, :-1]
        ends = torch.cat([everyone.new_zeros(1), everyone.sum(1).cumsum(0)]).tolist()
        documents = torch.cat([everyone.new_zeros(1), everyone.sum(0).cumsum(0)])
        made = list(zip(ends[:-1], ends[1:], strict=True))
        needed = [(a if begins else a - 1, b) for (a, b), begins in zip(made, begins_with_chunk, strict=True)]
        return Deal(made, needed, Shard.even(self.peers, documents, self.num_padding))


@dataclass(frozen=True, slots=True)
class Deal:
    """Chunks on their way: made where their first unit lies, worked on in even pieces, used where their units lie."""

    made: list[Piece]
    needed: list[Piece]
    """Of every process the chunks that its units belong to; the first may have been opened on an earlier one."""
    shard: Shard
    """Of the chunks, for the stage inside."""

    @property
    def num_made(self) -> int:
        """Chunks that this process opens."""
        start, stop = self.made[self.shard.peers.rank]
        return stop - start

    @property
    def num_needed(self) -> int:
        """Chunks that this process's units belong to."""
        start, stop = self.needed[self.shard.peers.rank]
        return stop - start

    def spread(self, rows: Tensor) -> Tensor:
        """(num_made, ...) -> the rows of this process's even piece; a row of padding is zeros."""
        rows = move(self.shard.peers, rows, self.made, self.shard.pieces)
        num_missing = self.shard.stop - self.shard.start - rows.shape[0]
        return torch.cat([rows, rows.new_zeros(num_missing, *rows.shape[1:])])

    def collect(self, rows: Tensor) -> Tensor:
        """Rows of this process's even piece -> (num_needed, ...)."""
        return move(self.shard.peers, rows, self.shard.pieces, self.needed)


def first_units(cu_seqlens: Tensor, shard: Shard | None) -> Tensor:
    """Positions int64 at which documents begin: in a piece that goes on with one, its first unit is none of them."""
    is_continued = shard is not None and shard.num_before > 0
    return cu_seqlens[int(is_continued) : -1].long()
