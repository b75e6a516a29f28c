"""Windows: every unit predicted once, no window too long."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet.data.batch import IGNORE
from hnet.data.collate import collate, empty_batch
from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.limit import Limited
from hnet.data.pack import Packer, SplitPacker, make_packer
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer

document_lists = st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=12)


def pack(source: Any, length: int, packing: Any = "split", epochs: int | None = 1, tokenizer: Any = None) -> Packer:
    documents = IndexedDocuments(source, key=9, epochs=epochs)
    return make_packer(EncodedDocuments(documents, tokenizer or ByteTokenizer()), length, packing)


@given(texts=document_lists, length=st.integers(2, 40), packing=st.sampled_from(["split", "whole"]))
def test_every_unit_is_predicted_once_an_epoch(list_source: Any, texts: list[bytes], length: int, packing: str) -> None:
    windows = list(pack(list_source(texts), length, packing))
    batches = [collate([window]) for window in windows]
    targets: list[int] = []
    for batch in batches:
        sequences = batch.cu_seqlens.tolist()
        assert sequences[0] == 0 and sequences[-1] == len(batch.input_ids) <= length
        assert all(start < stop for start, stop in zip(sequences, sequences[1:], strict=False))
        labels = batch.labels.tolist()
        kept = [label for label in labels if label != IGNORE]
        assert batch.num_targets == len(kept)
        targets += kept
        for start, stop in zip(sequences, sequences[1:], strict=False):
            assert batch.input_ids[start + 1 : stop].tolist() == labels[start : stop - 1]
    assert sorted(targets) == sorted(unit for text in texts for unit in [*text, 255])
    assert sum(batch.target_bytes for batch in batches) == sum(map(len, texts))
    inputs = [unit for batch in batches for unit in batch.input_ids.tolist()]
    units = [unit for text in texts for unit in [254, *text, 255]]
    assert 0 <= len(units) - len(inputs) <= len(texts)
    assert sorted(inputs + [255] * (len(units) - len(inputs))) == sorted(units)
    assert all(batch.num_targets for batch in batches)
    if packing == "split":
        assert all(len(batch.input_ids) == length for batch in batches[:-1])


@given(texts=document_lists, length=st.integers(4, 64))
def test_whole_cuts_only_long_documents(list_source: Any, texts: list[bytes], length: int) -> None:
    for window in pack(list_source(texts), length, "whole"):
        for piece in window:
            uncut = piece.start == 0 and piece.stop == piece.units.num_units
            assert uncut or piece.units.num_units > length


def test_whole_looks_ahead_for_what_fits(list_source: Any) -> None:
    source = list_source([bytes([65 + number]) * (13 if number < 8 else 5) for number in range(16)])
    documents = EncodedDocuments(IndexedDocuments(source, shuffle=False, epochs=1), ByteTokenizer())
    windows = list(make_packer(documents, 22, "whole"))
    assert [[chr(collate([[piece]]).input_ids[1]) for piece in window] for window in windows] == [
        list(pair) for pair in zip("ABCDEFGH", "IJKLMNOP", strict=True)
    ]
    assert all(piece.stop == piece.units.num_units for window in windows for piece in window)


def test_one_window_by_hand(list_source: Any) -> None:
    source = list_source([b"abcd"])
    first, second = (collate([window]) for window in pack(source, 3))
    assert first.input_ids.tolist() == [254, 97, 98]
    assert first.labels.tolist() == [97, 98, 99]
    assert (first.num_targets, first.target_bytes) == (3, 3)
    assert second.input_ids.tolist() == [99, 100, 255]
    assert second.labels.tolist() == [100, 255, IGNORE]
    assert (second.num_targets, second.target_bytes) == (2, 1)
    assert second.cu_seqlens.tolist() == [0, 3]
    together = collate(pack(source, 3))
    assert together.cu_seqlens.tolist() == [0, 3, 6]
    assert [str(tensor.dtype) for tensor in (together.input_ids, together.labels, together.cu_seqlens)] == [
        "torch.int64",
        "torch.int64",
        "torch.int32",
    ]


def test_an_end_that_would_be_alone_is_dropped(list_source: Any) -> None:
    batch = collate(pack(list_source([b"abcd"]), 5))
    assert batch.input_ids.tolist() == [254, *b"abcd"]
    assert batch.labels.tolist() == [*b"abcd", 255]
    assert (batch.num_targets, batch.target_bytes) == (5, 4)


def test_bytes_that_look_like_markers_count_as_text(list_source: Any) -> None:
    batch = collate(pack(list_source([b"\xfe\xff\xff"]), 100))
    assert batch.labels.tolist() == [254, 255, 255, 255, IGNORE]
    assert (batch.num_targets, batch.target_bytes) == (4, 3)


def test_a_document_cut_short_has_no_end(list_source: Any) -> None:
    documents = Limited(IndexedDocuments(list_source([b"abcdef"]), epochs=1), 4)
    batch = collate(SplitPacker(EncodedDocuments(documents, ByteTokenizer()), 100))
    assert batch.input_ids.tolist() == [254, *b"abcd"]
    assert batch.labels.tolist() == [*b"abcd", IGNORE]
    assert (batch.num_targets, batch.target_bytes) == (4, 4)


@pytest.mark.parametrize("packing", ["split", "whole"])
def test_tokens_count_their_bytes(list_source: Any, tokenizer_file: Path, packing: str) -> None:
    texts = ["the king and the queen 诗".encode(), b"\xff\xfe broken", b"and so " * 30]
    tokenizer = FileTokenizer(tokenizer_file)
    packer = pack(list_source(texts), 16, packing, tokenizer=tokenizer)
    batches = [collate([window]) for window in packer]
    assert sum(batch.target_bytes for batch in batches) == sum(map(len, texts))
    assert sum(batch.num_targets for batch in batches) < sum(map(len, texts))
    assert sum(int((batch.labels == tokenizer.eos).sum()) for batch in batches) == len(texts)


@pytest.mark.parametrize("packing", ["split", "whole"])
@pytest.mark.parametrize("epochs", [None, 1])
def test_resumes_anywhere(list_source: Any, assert_resumes: Any, packing: str, epochs: int | None) -> None:
    texts = [bytes([65 + number]) * (number * 7 % 40) for number in range(12)]
    assert_resumes(lambda: pack(list_source(texts), 16, packing, epochs=epochs))


def test_resumes_with_tokens(list_source: Any, assert_resumes: Any, tokenizer_file: Path) -> None:
    tokenizer = FileTokenizer(tokenizer_file)
    texts = [b"of the people " * number for number in range(1, 9)]
    assert_resumes(lambda: pack(list_source(texts), 16, epochs=None, tokenizer=tokenizer))


def test_only_collated_windows_are_read(list_source: Any) -> None:
    source = list_source([bytes([number]) * 30 for number in range(20)])
    packer = SplitPacker(EncodedDocuments(IndexedDocuments(source, shuffle=False), ByteTokenizer()), 32)
    windows = list(islice(packer, 10))
    assert source.read_indexes == set()
    collate(windows[4:5])
    assert source.read_indexes == {4}


def test_empty_batch() -> None:
    batch = empty_batch(254)
    assert batch.input_ids.tolist() == [254] and batch.labels.tolist() == [IGNORE]
    assert batch.cu_seqlens.tolist() == [0, 1] and batch.num_targets == batch.target_bytes == 0
