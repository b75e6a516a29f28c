"""A text cut at every boundary of every stage: what the terminal, HTML and PNG views draw."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from hnet.inspect.boundaries import Boundaries
from hnet.inspect.characters import Character, characters

SPLIT = "╎"
"""Stands for a boundary inside a character, in the colour of the chunk that begins there."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A character, or the mark of a chunk that begins inside one (then `character` is None)."""

    position: int
    """The byte that the piece begins with."""
    character: Character | None
    chunks: tuple[int, ...]
    """Index of its chunk at every stage, outermost first."""
    begins: int
    """Number of stages, from the outermost, whose chunk begins here: 0 for most bytes."""

    @property
    def text(self) -> str:
        return self.character.text if self.character else SPLIT

    @property
    def is_escape(self) -> bool:
        return self.character is None or self.character.is_escape

    @property
    def is_newline(self) -> bool:
        return self.character is not None and self.character.is_newline

    @property
    def cells(self) -> int:
        return self.character.cells if self.character else 1


def pieces(boundaries: Boundaries) -> Iterator[Piece]:
    """Characters in order, each with its chunks; a character that a boundary splits is followed by `SPLIT` marks.

    A split character belongs to the chunk of its first byte.
    """
    starts = [set(stage.starts) for stage in boundaries.stages]

    def piece(position: int, character: Character | None) -> Piece:
        chunks = tuple(bisect_right(stage.starts, position) - 1 for stage in boundaries.stages)
        return Piece(position, character, chunks, sum(position in stage for stage in starts))

    for character in characters(boundaries.data):
        yield piece(character.start, character)
        for position in range(character.start + 1, character.stop):
            if position in starts[0]:
                yield piece(position, None)
