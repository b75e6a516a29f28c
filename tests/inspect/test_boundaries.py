from types import SimpleNamespace

import pytest
import torch

from hnet.errors import ConfigError, DataError
from hnet.inspect.boundaries import collect_boundaries
from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.layout import Layout
from hnet.segmentation.rule import chunk_starts
from hnet.segmentation.words import WordsRule


def test_first_byte_of_a_chunk(rule_model: torch.nn.Module) -> None:
    found = collect_boundaries(rule_model, b"to be or not to be")
    assert found.stages[0].starts == (0, 2, 5, 8, 12, 15)
    assert found.stages[1].starts == (0, 8)
    assert found.bytes_per_chunk() == (3.0, 9.0)


def test_every_byte_is_a_unit_of_stage_0(rule_model: torch.nn.Module) -> None:
    found = collect_boundaries(rule_model, b"to be")
    assert found.stages[0].positions == (0, 1, 2, 3, 4)
    assert found.stages[0].probabilities == pytest.approx((0.2, 0.2, 0.9, 0.2, 0.2))
    assert found.stages[1].positions == (0, 2)
    assert found.stages[1].probability_at(1) is None
    assert found.stages[0].probability_at(2) == pytest.approx(0.9)
    assert [found.stages[0].chunk_at(byte) for byte in range(5)] == [0, 0, 1, 1, 1]


def test_bos_that_is_a_chunk_of_its_own(rule_model: torch.nn.Module) -> None:
    found = collect_boundaries(rule_model, b" be")
    assert found.stages[0].starts == (0,)
    assert found.stages[1].positions == (0,)
    assert found.stages[1].starts == (0,)


@pytest.mark.parametrize("data", [b"a", b" ", b"     ", b"\xff\xfe", "ein Bär".encode()])
def test_stages_are_nested(rule_model: torch.nn.Module, data: bytes) -> None:
    outer, inner = collect_boundaries(rule_model, data).stages
    assert inner.positions == outer.starts
    assert set(inner.starts) <= set(outer.starts)
    assert len(outer.positions) == len(outer.probabilities) == len(data)
    assert len(inner.positions) == len(inner.probabilities)


def test_long_text_is_read_in_pieces_that_keep_characters_whole(rule_model: torch.nn.Module) -> None:
    data = "äöü äöü äöü".encode()
    found = collect_boundaries(rule_model, data, window_bytes=5)
    assert sum(length - 1 for length in rule_model.lengths) == len(data)
    assert max(rule_model.lengths) <= 6
    assert found.stages[0].positions == tuple(range(len(data)))
    for start in found.stages[0].starts:
        data[start:].decode()


def test_pieces_of_continuation_bytes_end(rule_model: torch.nn.Module) -> None:
    found = collect_boundaries(rule_model, b"\x80" * 11, window_bytes=3)
    assert found.stages[0].starts == (0, 3, 6, 9)


def test_empty_text(rule_model: torch.nn.Module) -> None:
    with pytest.raises(DataError, match="empty"):
        collect_boundaries(rule_model, b"")


def test_flat_model_and_token_model(rule_model: torch.nn.Module) -> None:
    stages = rule_model.config.stages
    rule_model.config = rule_model.config.model_copy(update={"stages": stages[-1:]})
    with pytest.raises(ConfigError, match="makes no chunks"):
        collect_boundaries(rule_model, b"text")
    rule_model.config = rule_model.config.model_copy(update={"stages": stages, "vocab_size": 8192})
    with pytest.raises(ConfigError, match="8192 tokens"):
        collect_boundaries(rule_model, b"text")


class MarkedModel(torch.nn.Module):
    """Begins a chunk where the marks say, and a longer one at every second of these."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=256, stages=[None] * 3)
        self.layout = lambda: layout
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: torch.Tensor, *, cu_seqlens: torch.Tensor, marks: torch.Tensor) -> SimpleNamespace:
        starts = chunk_starts(marks.numpy())
        inner = torch.arange(len(starts)) % 2 == 0
        outer = torch.zeros(len(input_ids), dtype=torch.bool)
        outer[starts] = True
        stages = [SimpleNamespace(boundary_prob=mask.float(), boundary_mask=mask) for mask in (outer, inner)]
        return SimpleNamespace(stages=stages)


@pytest.mark.parametrize("separators", [(), (253,), (253, 252)])
def test_chunks_that_are_given_are_shown_in_bytes_of_text(separators: tuple[int, ...]) -> None:
    found = collect_boundaries(MarkedModel(Layout(WordsRule(), separators)), b"to be or not")  # type: ignore[arg-type]
    assert found.stages[0].positions == tuple(range(12))
    assert found.stages[0].starts == (0, 2, 5, 8)
    assert found.stages[0].probabilities == (1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0)
    # The chunk of BOS is the first of the inner stage.
    assert found.stages[1].positions == found.stages[0].starts
    assert found.stages[1].starts == (0, 2, 8)


@pytest.mark.parametrize("separators", [(), (253,)])
def test_a_first_chunk_that_holds_bos(separators: tuple[int, ...]) -> None:
    layout = Layout(FixedRule(4), separators, predict_separator=False)
    found = collect_boundaries(MarkedModel(layout), b"to be or not")  # type: ignore[arg-type]
    assert found.stages[0].positions == tuple(range(12))
    assert found.stages[0].starts == (0, 3, 7, 11)
    assert found.stages[1].starts == (0, 7)
