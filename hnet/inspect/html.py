"""Boundaries as one HTML page that needs nothing else: no network, no other file."""

from html import escape
from importlib import resources

from hnet.inspect import palette
from hnet.inspect.boundaries import Boundaries
from hnet.inspect.pieces import Piece, pieces


def render_html(boundaries: Boundaries, *, title: str = "Chunk boundaries") -> str:
    """A page with every chunk coloured, bars for inner stages, and the probabilities of a byte on hover.

    All text, the title too, is escaped; the page's own policy forbids loading anything.
    """
    template = resources.files("hnet.inspect").joinpath("page.html").read_text(encoding="utf-8")
    values = {
        "TITLE": escape(title),
        "COLOURS": _colours(len(boundaries.stages)),
        "STATISTICS": _statistics(boundaries),
        "LEGEND": _legend(len(boundaries.stages)),
        "TEXT": _text(boundaries),
    }
    head, *sections = template.split("{{")
    page = [head]
    for section in sections:
        name, _, rest = section.partition("}}")
        page += [values[name], rest]
    return "".join(page)


def _colours(num_stages: int) -> str:
    rules = [f".h{hue}.c{shade}{{background:{palette.HUES[hue][shade]}}}" for hue in range(2) for shade in range(2)]
    for stage in range(1, num_stages):
        for parity in range(2):
            rules.append(f".s{stage}.p{parity}{{--bar:{palette.bar(stage, parity)}}}")
        rules.append(f".s{stage}{{border-bottom:3px solid var(--bar);padding-bottom:{4 * stage - 1}px}}")
    return "\n".join(rules)


def _statistics(boundaries: Boundaries) -> str:
    rows = [
        f"<tr><td>stage {index}</td><td>{stage.num_chunks:,}</td><td>{size:.2f}</td>"
        f"<td>{len(stage.positions) / stage.num_chunks:.2f}</td>"
        f"<td>{sum(stage.probabilities) / len(stage.probabilities):.3f}</td></tr>"
        for index, (stage, size) in enumerate(zip(boundaries.stages, boundaries.bytes_per_chunk(), strict=True))
    ]
    return "".join(rows)


def _legend(num_stages: int) -> str:
    def swatch(hue: int, shade: int) -> str:
        return f'<i class="sw" style="background:{palette.HUES[hue][shade]}"></i>'

    if num_stages == 1:
        items = [f"{swatch(0, 0)}{swatch(1, 0)} chunks of stage 0"]
    else:
        items = [
            f"{swatch(0, 0)}{swatch(0, 1)} shade: chunks of stage 0",
            f"{swatch(0, 1)}{swatch(1, 1)} hue and first bar: chunks of stage 1",
        ]
    for stage in range(2, num_stages):
        bars = "".join(f'<i class="bar" style="background:{palette.bar(stage, parity)}"></i>' for parity in range(2))
        items.append(f"{bars} bar {stage}: chunks of stage {stage}")
    items.append("<code>╎</code> a boundary inside a character")
    return "".join(f"<span>{item}</span>" for item in items)


def _text(boundaries: Boundaries) -> str:
    """Nested spans, one a chunk; the innermost stage has the outermost span."""
    num_stages = len(boundaries.stages)
    parts: list[str] = []
    opened = 0
    for piece in pieces(boundaries):
        if piece.begins:
            parts.append("</span>" * min(piece.begins, opened))
            for stage in reversed(range(piece.begins)):
                parts.append(_open_chunk(boundaries, stage, piece))
            opened = num_stages
        parts.append(_character(boundaries, piece))
    parts.append("</span>" * opened)
    return "".join(parts)


def _open_chunk(boundaries: Boundaries, stage: int, piece: Piece) -> str:
    starts = boundaries.stages[stage].starts
    chunk = piece.chunks[stage]
    stop = starts[chunk + 1] if chunk + 1 < len(starts) else len(boundaries.data)
    classes = f"s{stage} p{chunk % 2}"
    if not stage:
        hue, shade = next(
            (hue, shade)
            for hue in range(2)
            for shade in range(2)
            if palette.HUES[hue][shade] == palette.background(piece.chunks)
        )
        classes += f" h{hue} c{shade}"
    return f'<span class="{classes}" data-n="{chunk}" data-b="{starts[chunk]}" data-e="{stop}">'


def _character(boundaries: Boundaries, piece: Piece) -> str:
    last = piece.character.stop if piece.character else piece.position + 1
    lines = [_byte(boundaries, position) for position in range(piece.position, last)]
    classes = "x" if piece.is_escape or piece.is_newline else "u"
    data = "&#10;".join(escape(line) for line in lines)
    return f'<b class="{classes}" data-p="{data}">{escape(piece.text)}</b>' + ("\n" if piece.is_newline else "")


def _byte(boundaries: Boundaries, position: int) -> str:
    """`0x74 at 12: stage 0 p 0.913 ●, stage 1 p 0.204`; the dot says that a chunk begins here."""
    stages = []
    for index, stage in enumerate(boundaries.stages):
        probability = stage.probability_at(position)
        if probability is None:
            break
        begins = " ●" if stage.starts[stage.chunk_at(position)] == position else ""
        stages.append(f"stage {index} p {probability:.3f}{begins}")
    return f"0x{boundaries.data[position]:02x} at {position}: {', '.join(stages)}"
