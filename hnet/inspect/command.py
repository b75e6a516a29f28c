"""`hnet inspect`."""

from pathlib import Path

from rich.console import Console

from hnet.errors import DataError
from hnet.inspect.boundaries import collect_boundaries
from hnet.inspect.statistics import statistics
from hnet.inspect.terminal import print_boundaries

LIMIT_BYTES = 65_536
"""Longest text that is shown; a page of it has about 6 MB."""


def run(
    checkpoint: str | Path,
    *,
    text: str | None = None,
    file: Path | None = None,
    html: Path | None = None,
    png: Path | None = None,
    console: Console | None = None,
) -> None:
    """Shows a model's boundaries on a text in the terminal, and writes them as a page or a picture on request.

    Args:
        text, file: the text itself, or where it is read from; exactly one. Of a file the first 65,536 bytes count.
    Raises:
        DataError: neither or both of `text` and `file`, an unreadable or empty file, an output folder that is missing.
        ConfigError, CheckpointError: the model makes no chunks, or cannot be loaded.
    """
    import hnet

    console = console or Console()
    data, name = _read(text, file)
    for path in (html, png):
        if path is not None and not path.absolute().parent.is_dir():
            raise DataError(f"{path}: the folder {path.absolute().parent} does not exist: make it first")
    boundaries = collect_boundaries(hnet.load(checkpoint), data[:LIMIT_BYTES])
    print_boundaries(boundaries, console)
    for index, stage in enumerate(statistics(boundaries)["stages"]):
        console.print(
            f"stage {index}: {stage['word_starts_cut_or_space']:.0%} of word starts are boundaries "
            f"(by chance {stage['word_starts_cut_or_space_by_chance']:.0%})",
            style="dim",
            highlight=False,
        )
    if len(data) > LIMIT_BYTES:
        console.print(f"the first {LIMIT_BYTES:,} of {len(data):,} bytes are shown", style="dim", highlight=False)
    if html is not None:
        from hnet.inspect.html import render_html

        html.write_text(render_html(boundaries, title=f"Chunk boundaries: {name}"), encoding="utf-8")
        console.print(f"page: {html}", markup=False)
    if png is not None:
        from hnet.inspect.png import save_png

        save_png(boundaries, png, title=f"Chunk boundaries: {name}")
        console.print(f"picture: {png}", markup=False)


def _read(text: str | None, file: Path | None) -> tuple[bytes, str]:
    """The bytes to inspect and a name for them."""
    if (text is None) == (file is None):
        raise DataError("give either --text or --file, and only one of them")
    if text is not None:
        return text.encode("utf-8", errors="surrogateescape"), "text"
    assert file is not None
    try:
        return file.read_bytes(), file.name
    except OSError as error:
        raise DataError(f"--file {file} cannot be read ({error.strerror}): give the path of a text file") from error
