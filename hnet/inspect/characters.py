"""Bytes as characters that are safe to show, each with the bytes it stands for."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

NEWLINE = "⏎"


@dataclass(frozen=True, slots=True)
class Character:
    """A shown character and its bytes `start` to `stop` of the text."""

    start: int
    stop: int
    text: str
    """The character itself; an escape such as `\\xff` for a byte that is no UTF-8 or would steer a terminal."""
    is_escape: bool
    is_newline: bool

    @property
    def cells(self) -> int:
        """Columns of a fixed-width font: 2 for each wide (East Asian) character, 0 for combining marks."""
        return sum(_cells(char) for char in self.text)


def characters(data: bytes) -> Iterator[Character]:
    """Characters of a text in order; together they cover every byte once. Newlines carry the text `⏎`."""
    position = 0
    while position < len(data):
        length = _utf8_length(data, position)
        raw = data[position : position + length]
        text = raw.decode("utf-8", errors="ignore")
        newline = text == "\n"
        escape = not newline and (not text or _is_unsafe(text))
        if newline:
            text = NEWLINE
        elif text == "\t":
            text, escape = "→", True
        elif escape:
            text = "".join(f"\\x{byte:02x}" for byte in raw)
        yield Character(position, position + length, text, escape, newline)
        position += length


def _utf8_length(data: bytes, position: int) -> int:
    """Bytes of the valid UTF-8 character at a position; 1 where there is none."""
    for length in range(1, 5):
        try:
            data[position : position + length].decode("utf-8")
        except UnicodeDecodeError:
            continue
        return length
    return 1


def _is_unsafe(char: str) -> bool:
    """Control, format (bidirectional and invisible), unassigned characters and line separators; not spaces."""
    return not char.isprintable() and unicodedata.category(char) != "Zs"


def _cells(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
