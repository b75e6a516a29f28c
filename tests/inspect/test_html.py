import re
from html.parser import HTMLParser

import torch

from hnet.inspect.boundaries import collect_boundaries
from hnet.inspect.html import render_html

HOSTILE = b"<script>alert(1)</script> & \"quoted\" 'x' </pre></span> \xff\x00 {{TITLE}}\n"


class Page(HTMLParser):
    """Shown text, chunk spans as (stage, first byte, end), and every attribute that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.chunks: list[tuple[int, int, int]] = []
        self.open: list[str] = []
        self.scripts = 0
        self.loads: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "!doctype"):
            self.open.append(tag)
        self.scripts += tag == "script"
        self.loads += [name for name in values if name in ("src", "href", "srcset", "action", "data")]
        if tag == "span" and "data-b" in values:
            stage = int(str(values["class"]).split()[0][1:])
            self.chunks.append((stage, int(values["data-b"] or 0), int(values["data-e"] or 0)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self.open:
            self.text += data


def test_chunks_and_nesting(rule_model: torch.nn.Module) -> None:
    page = Page(render_html(collect_boundaries(rule_model, b"to be or not")))
    assert page.chunks == [(1, 0, 8), (0, 0, 2), (0, 2, 5), (0, 5, 8), (1, 8, 12), (0, 8, 12)]
    assert page.text == "to be or not"
    assert not page.open


def test_everything_is_escaped(rule_model: torch.nn.Module) -> None:
    boundaries = collect_boundaries(rule_model, HOSTILE)
    page = Page(render_html(boundaries, title="</title><script>alert(2)</script>"))
    assert page.scripts == 1
    assert not page.open
    assert page.text == HOSTILE.decode(errors="ignore").replace("\x00", "\\xff\\x00").replace("\n", "⏎\n")


def test_page_loads_nothing(rule_model: torch.nn.Module) -> None:
    source = render_html(collect_boundaries(rule_model, b"a http://example.org b"))
    assert not Page(source).loads
    assert "default-src 'none'" in source
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_probability_of_each_byte(rule_model: torch.nn.Module) -> None:
    source = render_html(collect_boundaries(rule_model, b"a b c d"))
    assert 'data-p="0x20 at 5: stage 0 p 0.900 ●, stage 1 p 0.900 ●"' in source
    assert 'data-p="0x64 at 6: stage 0 p 0.200"' in source


def test_statistics_table(rule_model: torch.nn.Module) -> None:
    source = render_html(collect_boundaries(rule_model, b"to be or not to be"))
    rows = re.findall(r"<tr><td>stage (\d)</td><td>(\d+)</td><td>([\d.]+)</td><td>([\d.]+)</td>", source)
    assert rows == [("0", "6", "3.00", "3.00"), ("1", "2", "9.00", "3.00")]


def test_split_character_keeps_spans_balanced(rule_model: torch.nn.Module) -> None:
    rule_model.cut_before = b"\xad\x87"
    page = Page(render_html(collect_boundaries(rule_model, "中文中文中文".encode())))
    assert not page.open
    assert page.text == "中╎文╎中╎文╎中╎文╎"
