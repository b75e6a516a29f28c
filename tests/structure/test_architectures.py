"""The pages of docs/architectures are of all that there is: parts, and models."""

from pathlib import Path

import pytest

from hnet.bench.architectures_report import BEGIN, END, page_of, pages
from hnet.config import load_config
from hnet.config.library import config_names
from hnet.model.config import ModelConfig
from hnet.model.config.registry import BOUNDARIES, EMBEDDINGS, OBJECTIVES, POOLS, UNPOOLS

FOLDER = Path(__file__).parents[2] / "docs" / "architectures"
HIERARCHICAL = [name for name in config_names("models") if len(load_config(ModelConfig, name).stages) > 1]


def test_the_index_names_every_part() -> None:
    axes = (FOLDER / "README.md").read_text().split("## Comparison")[0]
    parts = [name for table in (BOUNDARIES, POOLS, UNPOOLS, EMBEDDINGS, OBJECTIVES) for name in table]
    assert not [name for name in parts if f"`{name}`" not in axes]


def test_the_index_has_a_place_for_the_table() -> None:
    text = (FOLDER / "README.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


@pytest.mark.parametrize("name", HIERARCHICAL)
def test_every_hierarchical_model_has_a_page(name: str) -> None:
    page = page_of(name, pages(FOLDER))
    assert page is not None
    assert f"{page}.md" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("page", pages(FOLDER))
def test_a_page_names_its_source_and_is_of_a_model(page: str) -> None:
    text = (FOLDER / f"{page}.md").read_text()
    assert "arXiv" in text or "arxiv.org" in text
    assert any(page_of(name, pages(FOLDER)) == page for name in HIERARCHICAL)
