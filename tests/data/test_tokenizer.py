"""Ids, and exactly as many bytes as there are."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.data.tokenizer import ByteTokenizer, FileTokenizer, check_vocab_size, load_tokenizer
from hnet.errors import ConfigError, DataError

TEXTS = ["", "Hello, world", "naïve café", "子曰：学而时习之\n", "🙂 mixed 诗 text\t\x00"]


@given(st.binary())
def test_bytes_are_ids(data: bytes) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode(data) == list(data)
    assert tokenizer.encode(data, bos=True, eos=True) == [254, *data, 255]
    assert tokenizer.decode_bytes(tokenizer.encode(data, bos=True, eos=True)) == data


def test_decode_text() -> None:
    tokenizer = ByteTokenizer()
    assert [tokenizer.decode(tokenizer.encode(text, bos=True, eos=True)) for text in TEXTS] == TEXTS
    assert tokenizer.decode([254, 65, 0xE8]) == "A\ufffd"
    assert tokenizer.vocab_size == 256


def test_byte_level_bpe_counts_every_byte(tokenizer_file: Path) -> None:
    tokenizer = FileTokenizer(tokenizer_file)
    for text in TEXTS:
        data = text.encode()
        ids, lengths = tokenizer.encode_with_lengths(data)
        assert lengths.sum() == len(data)
        assert tokenizer.decode(ids.tolist()) == text
        position = 0
        for number, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            piece = data[position : position + length]
            assert tokenizer.decode([number]).encode() == piece or not _valid(piece)
            position += length
    assert tokenizer.bos == tokenizer.eos == tokenizer.encode("", eos=True)[0]
    assert len(tokenizer.encode("the the the")) < 11


def _valid(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=60)
@given(st.binary(max_size=80))
def test_any_bytes_are_counted_exactly(tokenizer_file: Path, data: bytes) -> None:
    tokenizer = FileTokenizer(tokenizer_file)
    _, lengths = tokenizer.encode_with_lengths(data)
    assert lengths.sum() == len(data)
    assert (lengths >= 0).all()


def test_a_tokenizer_of_another_kind(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False)
    library.train_from_iterator(["the cat sat on the mat", "café 诗"], trainer)
    library.save(str(tmp_path / "words.json"))
    tokenizer = FileTokenizer(tmp_path / "words.json")
    data = "The café  诗 sat. \xff zz ".encode() + b"\xff\xfe end  "
    ids, lengths = tokenizer.encode_with_lengths(data)
    assert len(ids) == len(lengths) and lengths.sum() == len(data) and (lengths >= 0).all()
    assert tokenizer.bos != tokenizer.eos


def test_vocabulary_must_fit_the_model(tokenizer_file: Path) -> None:
    tokenizer = load_tokenizer(str(tokenizer_file))
    check_vocab_size(tokenizer, tokenizer.vocab_size)
    with pytest.raises(ConfigError, match=r"model\.vocab_size is 256, but the tokenizer has 400 ids"):
        check_vocab_size(tokenizer, 256)
    assert load_tokenizer("bytes").vocab_size == 256


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json does not exist; give `bytes` or the path"):
        load_tokenizer(str(tmp_path / "none.json"))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json is not a `tokenizers` JSON file"):
        load_tokenizer(str(tmp_path / "bad.json"))
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"no token that ends a document .*</s>.*add one as a special token"):
        load_tokenizer(str(tmp_path / "none.json"))
