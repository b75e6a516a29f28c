"""Colours of chunks, shared by the terminal, HTML and PNG views."""

HUES = (("#a8d8f0", "#6cb4dd"), ("#fbd9a5", "#f2b35e"))
"""Backgrounds (light, dark shade): the hue alternates with the chunks of stage 1, the shade with those of stage 0."""

BARS = (("#1f6fa8", "#c2620c"), ("#7a3ea1", "#2e8b57"), ("#a3324b", "#3d3d8f"))
"""Bar colours of the stages inside stage 0; they alternate with the stage's chunks."""

INK = "#14181c"
FAINT_INK = "#5a6672"


def background(chunks: tuple[int, ...]) -> str:
    """Background of a byte from its chunk index at every stage, outermost first."""
    hue = chunks[1] % 2 if len(chunks) > 1 else chunks[0] % 2
    shade = chunks[0] % 2 if len(chunks) > 1 else 0
    return HUES[hue][shade]


def bar(stage: int, chunk: int) -> str:
    """Colour of the bar of a chunk of an inner stage (`stage` >= 1)."""
    return BARS[(stage - 1) % len(BARS)][chunk % 2]
