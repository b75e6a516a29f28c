import json

import pytest
import torch

from hnet.inspect.boundaries import Boundaries, StageBoundaries
from hnet.inspect.statistics import boundary_statistics, statistics


def test_boundaries_on_spaces(rule_model: torch.nn.Module) -> None:
    found = boundary_statistics(rule_model, b"to be, or not")
    json.dumps(found)
    assert (found["bytes"], found["words"], len(found["stages"])) == (13, 4, 2)
    outer = found["stages"][0]
    assert outer["bytes_per_chunk"] == 13 / 4
    assert outer["word_starts_cut"] == 1 / 4
    assert outer["word_starts_cut_or_space"] == 1
    assert outer["boundaries_on_word_start_or_space"] == 1
    rate = 4 / 13
    assert outer["word_starts_cut_by_chance"] == rate
    assert outer["word_starts_cut_or_space_by_chance"] == pytest.approx(rate + 3 / 4 * rate * (1 - rate))
    assert found["stages"][1]["units_per_chunk"] == 2


def test_chance_is_what_random_boundaries_reach(rule_model: torch.nn.Module) -> None:
    data = b"some words of text, " * 400
    mask = torch.rand(len(data), generator=torch.Generator().manual_seed(0)) < 0.2
    starts = (0, *mask.nonzero().flatten().tolist())
    stage = StageBoundaries(tuple(range(len(data))), (0.5,) * len(data), starts)
    found = statistics(Boundaries(data, (stage,)))["stages"][0]
    assert found["word_starts_cut"] == pytest.approx(found["word_starts_cut_by_chance"], abs=0.03)
    assert found["word_starts_cut_or_space"] == pytest.approx(found["word_starts_cut_or_space_by_chance"], abs=0.03)


@pytest.mark.parametrize(("data", "words"), [("naïve e\u0301té", 2), ("...", 0), ("一二 三", 2), ("\xff", 1)])
def test_words(rule_model: torch.nn.Module, data: str, words: int) -> None:
    assert boundary_statistics(rule_model, data.encode())["words"] == words


def test_text_without_words(rule_model: torch.nn.Module) -> None:
    stage = boundary_statistics(rule_model, b"\xff\xff !!")["stages"][0]
    assert stage["word_starts_cut"] == 0
    assert stage["boundaries_on_word_start_or_space"] == 0
