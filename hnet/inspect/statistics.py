"""How a model's boundaries lie on the words of a text."""

from typing import TYPE_CHECKING, Any

from hnet.inspect.boundaries import Boundaries, collect_boundaries
from hnet.inspect.characters import characters

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel


def boundary_statistics(model: "LanguageModel", data: bytes) -> dict[str, Any]:
    """Chunk sizes and the agreement of boundaries with word starts, as JSON-serialisable data.

    A word is a run of letters, digits and marks. Models put a chunk's first byte either on a word's first byte or
    on the space before it, so each measure is given for both and for either. `*_by_chance` is what boundaries in
    random places would reach at the same rate.

    Returns:
        `bytes`, `words` and `stages`, a list with, per stage: `bytes_per_chunk`, `units_per_chunk`,
        `word_starts_cut` (share of words with a boundary on the first byte), `word_starts_cut_or_space`
        (or on the character before it, where that is white space), both with `_by_chance`, and
        `boundaries_on_word_start_or_space` (share of boundaries).
    Raises:
        DataError, ConfigError: as `collect_boundaries`.
    """
    return statistics(collect_boundaries(model, data))


def statistics(boundaries: Boundaries) -> dict[str, Any]:
    """`boundary_statistics` of boundaries that are collected already."""
    words = _words(boundaries.data)
    return {
        "bytes": len(boundaries.data),
        "words": len(words),
        "stages": [_stage(boundaries, index, words) for index in range(len(boundaries.stages))],
    }


def _stage(boundaries: Boundaries, index: int, words: list[tuple[int, int | None]]) -> dict[str, float]:
    stage = boundaries.stages[index]
    starts = set(stage.starts)
    rate = len(starts) / len(boundaries.data)
    on_word = sum(word in starts for word, _ in words)
    on_either = sum(word in starts or space in starts for word, space in words)
    places = {place for pair in words for place in pair if place is not None}
    num_words = max(len(words), 1)
    with_space = sum(space is not None for _, space in words) / num_words
    return {
        "bytes_per_chunk": len(boundaries.data) / stage.num_chunks,
        "units_per_chunk": len(stage.positions) / stage.num_chunks,
        "word_starts_cut": on_word / num_words,
        "word_starts_cut_by_chance": rate,
        "word_starts_cut_or_space": on_either / num_words,
        "word_starts_cut_or_space_by_chance": rate + with_space * rate * (1 - rate),
        "boundaries_on_word_start_or_space": len(starts & places) / len(starts),
    }


def _words(data: bytes) -> list[tuple[int, int | None]]:
    """First byte of each word, and of the white space character right before it, if any."""
    words: list[tuple[int, int | None]] = []
    inside = False
    space: int | None = None
    for character in characters(data):
        text = data[character.start : character.stop].decode("utf-8", errors="ignore")
        in_word = bool(text) and (text.isalnum() or (inside and not text.isascii() and not text.isspace()))
        if in_word and not inside:
            words.append((character.start, space))
        inside = in_word
        space = character.start if text.isspace() else None
    return words
