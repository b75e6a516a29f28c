import io

import torch
from rich.console import Console

from hnet.inspect import palette
from hnet.inspect.boundaries import collect_boundaries
from hnet.inspect.terminal import print_boundaries, render_boundaries


def backgrounds(model: torch.nn.Module, data: bytes) -> list[str]:
    text = render_boundaries(model, data)
    return [str(span.style.bgcolor.name) for span in text.spans]


def test_colours_alternate_with_chunks(rule_model: torch.nn.Module) -> None:
    found = backgrounds(rule_model, b"a b c d e")
    (light, dark), (other_light, other_dark) = palette.HUES
    assert found == [light, dark, dark, light, light, other_dark, other_dark, other_light, other_light]


def test_marks(rule_model: torch.nn.Module) -> None:
    assert render_boundaries(rule_model, b"a b c d e", marks=True).plain == "‖a| b| c‖ d| e"


def test_split_characters_and_invalid_bytes(rule_model: torch.nn.Module) -> None:
    rule_model.cut_before = b"\xad"
    text = render_boundaries(rule_model, "中文".encode() + b"\xff\n")
    assert text.plain == "中╎文\\xff⏎"
    assert text.spans[0].style.bgcolor != text.spans[1].style.bgcolor
    assert text.spans[1].style.bgcolor == text.spans[2].style.bgcolor


def test_no_byte_of_the_text_steers_the_terminal(rule_model: torch.nn.Module) -> None:
    out = io.StringIO()
    console = Console(file=out, color_system=None, width=80)
    print_boundaries(collect_boundaries(rule_model, b"\x1b[31m[bold]x[/bold]\r\x07 y"), console)
    assert out.getvalue().splitlines() == [
        "‖\\x1b[31m[bold]x[/bold]\\x0d\\x07| y",
        "bytes per chunk: stage 0 11.5, stage 1 23 (23 bytes)",
        "| begins a chunk of stage 0, ‖ begins a chunk of stage 1",
    ]


def test_coloured_console_needs_no_marks(rule_model: torch.nn.Module) -> None:
    out = io.StringIO()
    console = Console(file=out, color_system="truecolor", force_terminal=True, width=80)
    print_boundaries(collect_boundaries(rule_model, b"a b"), console)
    assert "|" not in out.getvalue()
    assert "48;2;168;216;240m" in out.getvalue()
