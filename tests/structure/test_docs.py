"""What the documentation points to is there: files, and the commands, options and presets that its examples use."""

import argparse
import re
from pathlib import Path

import pytest

from hnet.cli import _parser

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "docker").glob("*.md")])
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    pages = [page.relative_to(ROOT / "docs") for page in [*(ROOT / "docs").glob("*.md"), *GUIDES]]
    assert [page.as_posix() for page in pages if f"({page.as_posix()})" not in index] == ["README.md"]


def test_the_table_of_engines_has_all_presets() -> None:
    table = (ROOT / "docs" / "engines.md").read_text().split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(path.stem for path in (ROOT / "configs" / "engine").glob("*.yaml"))


def _options(parser: argparse.ArgumentParser, name: str) -> set[str]:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {option for action in commands.choices[name]._actions for option in action.option_strings}


@pytest.mark.parametrize("command", ["launch", "plan"])
def test_options_of_commands_in_the_guides_exist(command: str) -> None:
    text = "\n".join(page.read_text() for page in [*GUIDES, ROOT / "docker" / "README.md"])
    lines = re.sub(r"\\\n", "", text).splitlines()
    arguments = [
        found.split("`")[0] for line in lines for found in re.findall(rf"(?:hnet|hnet:cuda\s+) ?{command} (.*)", line)
    ]
    used = {option for words in arguments for option in re.findall(r"(?<![\w-])--[a-z-]+", words)}
    assert used
    assert not used - _options(_parser(), command)
