"""Batches for models that are told where chunks begin: the layout of the text, in the windows of the text."""

import json
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.data.batch import IGNORE, Batch
from hnet.data.collate import collate, empty_batch
from hnet.data.config import DataConfig
from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.pack import Packer, SplitPacker, Window, make_packer
from hnet.data.shard import RankBatches
from hnet.data.stream import TrainStream, build_stream
from hnet.data.task import NextUnits
from hnet.data.tokenizer import ByteTokenizer
from hnet.data.validation import validation_batches
from hnet.errors import ConfigError
from hnet.segmentation.fixed import FixedRule
from hnet.segmentation.layout import Layout
from hnet.segmentation.space_like import SpaceLikeRule
from hnet.segmentation.words import WordsRule

LAYOUTS = {
    "words": Layout(WordsRule()),
    "words, separated": Layout(WordsRule(max_bytes=8), (253,)),
    "words, three separators": Layout(WordsRule(), (253, 252, 251)),
    "space-like": Layout(SpaceLikeRule()),
    "fixed": Layout(FixedRule(4), (253,), predict_separator=False),
}
TEXTS = st.lists(
    st.text(st.sampled_from("ab .\né日😀"), min_size=1, max_size=30).map(str.encode), min_size=1, max_size=6
)
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def pack(source: Any, length: int, packing: Any = "split") -> Packer:
    documents = IndexedDocuments(source, key=9, epochs=1)
    return make_packer(EncodedDocuments(documents, ByteTokenizer()), length, packing)


def check(batch: Batch, window: Window, layout: Layout) -> None:
    """Every sequence is its piece laid out alone, with what follows it in the document."""
    assert batch.marks is not None
    for piece, (begin, end) in zip(window, pairwise(batch.cu_seqlens.tolist()), strict=True):
        units = np.empty(piece.units.num_units, dtype=np.int64)
        piece.units.fill(units, 0, len(units))
        expected = layout.lay_out(units[piece.start : piece.stop], units[piece.stop :])
        assert expected.marks is not None
        for tensor, values in ((batch.input_ids, expected.ids), (batch.labels, expected.labels)):
            assert tensor[begin:end].tolist() == values.tolist()
        assert batch.marks[begin:end].tolist() == expected.marks.tolist()


@each_layout
@settings(max_examples=30, deadline=None)
@given(texts=TEXTS, length=st.integers(2, 40), packing=st.sampled_from(["split", "whole"]))
def test_a_batch_is_the_layout_of_its_text(
    list_source: Any, layout: Layout, texts: list[bytes], length: int, packing: str
) -> None:
    windows = list(pack(list_source(texts), length, packing))
    targets: list[int] = []
    for window in windows:
        batch = collate([window], layout)
        check(batch, window, layout)
        labels = batch.labels[batch.labels != IGNORE].tolist()
        assert batch.num_targets == len(labels)
        text = [label for label in labels if label not in layout.separators]
        assert batch.target_bytes == sum(label != 255 for label in text) == int(batch.windows[0, 1])
        targets += text
    assert sorted(targets) == sorted(unit for text in texts for unit in [*text, 255])
    together = collate(windows, layout)
    check(together, [piece for window in windows for piece in window], layout)
    assert [len(window) for window in windows] == together.windows[:, 0].tolist()


def test_a_word_that_a_window_cuts(list_source: Any) -> None:
    layout = LAYOUTS["words, separated"]
    first, second = (collate([window], layout) for window in pack(list_source([b"Hi you!"]), 5))
    assert first.input_ids.tolist() == [253, 254, 253, *b"Hi", 253, *b" y"]
    assert first.labels.tolist() == [IGNORE, 253, *b"Hi", 253, *b" yo"]
    assert second.input_ids.tolist() == [253, *b"ou!", 253, 255]
    assert second.labels.tolist() == [IGNORE, *b"u!", 253, 255, IGNORE]
    assert (first.target_bytes, second.target_bytes) == (5, 2)
    assert second.marks is not None and second.marks.tolist() == [0, 0, 0, 0, 2, 0]


@each_layout
def test_an_empty_batch_predicts_nothing(layout: Layout) -> None:
    batch = empty_batch(254, layout)
    assert batch.input_ids.tolist() == [*layout.separators, 254]
    assert batch.labels.tolist() == [IGNORE] * len(batch.input_ids)
    assert batch.num_targets == batch.target_bytes == len(batch.windows) == 0
    assert batch.marks is not None and batch.cu_seqlens.tolist() == [0, len(batch.input_ids)]


def open_stream(folder: Path, layout: Layout, rank: int = 0, world_size: int = 1, prefetch: int = 0) -> TrainStream:
    config = DataConfig(train=str(folder), sequence_length=64, prefetch=prefetch)
    sizes = {"rank": rank, "world_size": world_size, "windows_per_step": 4, "micro_batch_windows": 4 // world_size}
    return build_stream(config, seed=3, layout=layout, **sizes)


@pytest.fixture
def words_folder(tmp_path: Path) -> Path:
    for number in range(30):
        (tmp_path / f"{number:02d}.txt").write_text(f"text {number}, größer als 日本 " * (1 + number % 7))
    return tmp_path


@each_layout
def test_resumes_anywhere(words_folder: Path, assert_resumes: Any, layout: Layout) -> None:
    opened = []

    def make() -> TrainStream:
        opened.append(open_stream(words_folder, layout, rank=1, world_size=2, prefetch=2))
        return opened[-1]

    assert_resumes(make, 8)
    for stream in opened:
        stream.close()


@each_layout
def test_windows_are_those_of_the_text_on_any_number_of_ranks(words_folder: Path, layout: Layout) -> None:
    def units(world_size: int, layout: Layout) -> list[int]:
        ranks = [open_stream(words_folder, layout, rank, world_size) for rank in range(world_size)]
        batches = [next(stream) for _ in range(5) for stream in ranks]
        assert json.dumps([stream.state_dict() for stream in ranks[1:]]) == json.dumps(
            [ranks[0].state_dict()] * (world_size - 1)
        )
        return [unit for batch in batches for unit in batch.input_ids.tolist()]

    alone = units(1, layout)
    assert units(2, layout) == units(4, layout) == alone
    assert layout.strip(np.array(alone)).tolist() == units(1, Layout())


def test_other_ranks_windows_are_not_read(list_source: Any) -> None:
    source = list_source([bytes([97 + number]) * 30 for number in range(20)])
    packer = SplitPacker(EncodedDocuments(IndexedDocuments(source, shuffle=False), ByteTokenizer()), 32)
    sizes = {"windows_per_step": 10, "micro_batch_windows": 1, "empty_unit": 254}
    batches = RankBatches(packer, rank=4, world_size=10, task=NextUnits(LAYOUTS["words, separated"]), **sizes)
    assert len(list(islice(batches, 1))) == 1
    assert source.read_indexes == {4}


@each_layout
def test_held_out_bytes_are_those_of_plain_text(layout: Layout) -> None:
    config = DataConfig(
        train="sample:train", validation="sample:validation", validation_bytes=9000, sequence_length=100
    )
    batches = [
        batch
        for rank in range(2)
        for batch in validation_batches(config, rank=rank, world_size=2, micro_batch_windows=3, layout=layout)
    ]
    assert sum(batch.target_bytes for batch in batches) == sum(b.target_bytes for b in validation_batches(config))
    assert all(batch.marks is not None for batch in batches)


def test_tokens_have_no_layout(tokenizer_file: Path) -> None:
    config = DataConfig(train="sample:train", validation="sample:validation", tokenizer=str(tokenizer_file))
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        build_stream(config, seed=0, windows_per_step=1, micro_batch_windows=1, layout=LAYOUTS["words"])
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        validation_batches(config, layout=LAYOUTS["words"])
