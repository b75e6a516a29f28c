"""Boundaries in the terminal: chunks in alternating colours."""

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.console import Console
from rich.style import Style
from rich.text import Text

from hnet.inspect import palette
from hnet.inspect.boundaries import Boundaries, collect_boundaries
from hnet.inspect.pieces import pieces

if TYPE_CHECKING:
    from hnet.model.language_model import LanguageModel

MARKS = "|‖⦀"
"""Before a chunk of stage 0, where also one of stage 1 begins, and of stage 2 and further in."""


def render_boundaries(model: "LanguageModel", data: bytes, *, marks: bool = False) -> Text:
    """A text coloured by the chunks that the model makes of it.

    With one chunking stage the colour alternates from chunk to chunk. With more, the shade alternates with the
    chunks of stage 0 and the hue with those of stage 1; every second chunk of stage 2 is underlined. Bytes that
    are no UTF-8 are shown as `\\xff`; a character that a boundary splits is followed by `╎`.

    Args:
        marks: also write one of `MARKS` before each chunk, so that the boundaries survive without colour.
    """
    return render(collect_boundaries(model, data), marks=marks)


def render(boundaries: Boundaries, *, marks: bool = False) -> Text:
    """`render_boundaries` of boundaries that are collected already."""
    text = Text()
    for piece in pieces(boundaries):
        if marks and piece.begins:
            text.append(MARKS[min(piece.begins, len(MARKS)) - 1], style="dim")
        underline = len(piece.chunks) > 2 and piece.chunks[2] % 2 == 1
        faint = piece.is_escape or piece.is_newline
        text.append(piece.text, style=_style(palette.background(piece.chunks), underline, faint))
        if piece.is_newline:
            text.append("\n")
    text.rstrip()
    return text


def print_boundaries(boundaries: Boundaries, console: Console) -> None:
    """Prints the coloured text and a line of bytes per chunk; with marks where colours are missing or too few."""
    few_colours = console.color_system in (None, "standard", "windows")
    console.print(render(boundaries, marks=few_colours), soft_wrap=True)
    console.print(summary(boundaries), style="dim", highlight=False)
    if few_colours:
        marks = zip(MARKS, range(len(boundaries.stages)), strict=False)
        legend = ", ".join(f"{mark} begins a chunk of stage {stage}" for mark, stage in marks)
        console.print(legend, style="dim", highlight=False)


def summary(boundaries: Boundaries) -> str:
    """`bytes per chunk: stage 0 4.81, stage 1 14.2 (1234 bytes)`."""
    stages = ", ".join(f"stage {index} {size:.3g}" for index, size in enumerate(boundaries.bytes_per_chunk()))
    return f"bytes per chunk: {stages} ({len(boundaries.data)} bytes)"


@lru_cache
def _style(background: str, underline: bool, faint: bool) -> Style:
    return Style(color=palette.FAINT_INK if faint else palette.INK, bgcolor=background, underline=underline)
