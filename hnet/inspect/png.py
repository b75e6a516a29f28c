"""Boundaries as a picture: coloured chunks, bars of the inner stages, and a bar of probability under each byte."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hnet.inspect import palette
from hnet.inspect.boundaries import Boundaries
from hnet.inspect.pieces import Piece, pieces
from hnet.inspect.terminal import summary

COLUMNS, MIN_COLUMNS = 100, 70
MAX_ROWS = 60
"""Longest picture; a longer text is cut and the caption says so."""
FONTS = ("DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei Mono")
CELL_WIDTH, ROW_HEIGHT = 0.105, 0.36
"""Inches."""

Row = list[tuple[int, Piece]]
"""Pieces of one line of the picture, each with its column."""


def save_png(boundaries: Boundaries, path: Path, *, title: str = "Chunk boundaries") -> Path:
    """Draws the first `MAX_ROWS` lines of the text; the file's folder must exist. Returns `path`."""
    rows, complete = _rows(boundaries)
    num_inner = len(boundaries.stages) - 1
    height = ROW_HEIGHT + 0.06 * num_inner
    columns = max(MIN_COLUMNS, *(row[-1][0] + row[-1][1].cells for row in rows))
    figure = Figure(figsize=(columns * CELL_WIDTH + 0.6, len(rows) * height + 1.1), dpi=140, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.3 / figure.get_figwidth(), 0.2 / figure.get_figheight(), 1, 1))
    axes.set_xlim(0, figure.get_figwidth() / CELL_WIDTH)
    axes.set_ylim(0, figure.get_figheight())
    axes.axis("off")
    top = len(rows) * height
    axes.text(0, top + 0.55, title, fontsize=13, weight="bold", color=palette.INK, parse_math=False)
    caption = summary(boundaries) + ("" if complete else f"; the first {rows[-1][-1][1].position + 1} bytes shown")
    axes.text(0, top + 0.28, caption + ". Thin bars: boundary probability of each byte.", fontsize=8.5, color="#5a6672")
    fonts = _fonts()
    for index, row in enumerate(rows):
        _draw_row(axes, boundaries, row, top - (index + 1) * height, num_inner, fonts)
    figure.savefig(path, format="png")
    return path


def _rows(boundaries: Boundaries) -> tuple[list[Row], bool]:
    rows: list[Row] = []
    for row in _wrapped(boundaries):
        if len(rows) == MAX_ROWS:
            return rows, False
        rows.append(row)
    return rows, True


def _wrapped(boundaries: Boundaries) -> Iterator[Row]:
    row: Row = []
    column = 0
    for piece in pieces(boundaries):
        if row and column + piece.cells > COLUMNS:
            yield row
            row, column = [], 0
        row.append((column, piece))
        column += piece.cells
        if piece.is_newline:
            yield row
            row, column = [], 0
    if row:
        yield row


def _draw_row(axes: Axes, boundaries: Boundaries, row: Row, bottom: float, num_inner: int, fonts: list[str]) -> None:
    patches: list[Rectangle] = []
    colours: list[str] = []

    def add(column: float, y: float, width: float, height: float, colour: str) -> None:
        patches.append(Rectangle((column, y), width, height, linewidth=0))
        colours.append(colour)

    base = bottom + 0.1 + 0.06 * num_inner
    for column, piece in row:
        add(column, base, piece.cells, 0.21, palette.background(piece.chunks))
        for stage in range(1, num_inner + 1):
            add(column, base - 0.06 * stage, piece.cells, 0.035, palette.bar(stage, piece.chunks[stage]))
        probability = boundaries.stages[0].probability_at(piece.position) or 0.0
        add(column + 0.2 * piece.cells, bottom + 0.005, 0.6 * piece.cells, 0.08 * probability, "#47515b")
        ink = palette.FAINT_INK if piece.is_escape or piece.is_newline else palette.INK
        text, size = (piece.text, 11.0) if _is_covered(piece.text, fonts) else (_code_points(piece.text), 5.5)
        centre = column + piece.cells / 2
        axes.text(centre, base + 0.055, text, fontsize=size, family=fonts, color=ink, ha="center", parse_math=False)
    axes.add_collection(PatchCollection(patches, facecolors=colours, edgecolors="none", antialiased=False, zorder=0))


def _fonts() -> list[str]:
    """The installed ones of `FONTS`: a name that is missing would be warned about for each character."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FONTS if name in installed]


def _is_covered(text: str, fonts: list[str]) -> bool:
    return all(any(ord(char) in _charmap(name) for name in fonts) for char in text)


@lru_cache
def _charmap(font: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont(font)).get_charmap())


def _code_points(text: str) -> str:
    """Stands for a character that no installed font can draw."""
    return "+".join(f"{ord(char):X}" for char in text)
