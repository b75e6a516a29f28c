"""Bytes as they are, or the tokens of a `tokenizers` file for baselines; both know the bytes of text behind a unit."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hnet.errors import ConfigError, DataError
from hnet.segmentation.layout import Layout
from hnet.segmentation.rule import BOS, EOS

_BOS_NAMES = ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "[CLS]")
_EOS_NAMES = ("</s>", "<eos>", "[EOS]", "<|end_of_text|>", "<|endoftext|>", "<|eos|>", "[SEP]")


class Tokenizer(Protocol):
    """Text to ids and back."""

    vocab_size: int
    bos: int
    eos: int
    identity: str
    """Equal for equal vocabularies, wherever the file lies."""

    def encode(self, text: str | bytes, *, bos: bool = False, eos: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class ByteTokenizer:
    """Every byte is its own id; BOS is 254 and EOS is 255."""

    vocab_size = 256
    bos = BOS
    eos = EOS
    identity = "bytes"

    def encode(self, text: str | bytes, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of a text; bytes need not be valid UTF-8."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return [BOS] * bos + list(data) + [EOS] * eos

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes, without a BOS at the beginning and without EOS at the end."""
        data = bytes(ids)
        return data[data[:1] == bytes([BOS]) :].removesuffix(bytes([EOS]))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; what is not valid UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")


class FileTokenizer:
    """A tokenizer of the `tokenizers` library, read from its JSON file.

    The file must hold a beginning-of-document or an end-of-document token (one of the usual names; one serves as both).
    """

    def __init__(self, path: str | Path) -> None:
        """Raises DataError if the file is missing, is no tokenizer, or has no such token."""
        from tokenizers import Tokenizer as Library

        self.path = Path(path)
        if not self.path.is_file():
            raise DataError(f"tokenizer {path} does not exist; give `bytes` or the path of a `tokenizers` JSON file")
        try:
            text = self.path.read_text(encoding="utf-8")
            self._library = Library.from_str(text)
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{path} is not a `tokenizers` JSON file: {error}") from error
        self.identity = f"{zlib.crc32(text.encode()):08x}"
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        first = next((vocabulary[name] for name in _BOS_NAMES if name in vocabulary), None)
        last = next((vocabulary[name] for name in _EOS_NAMES if name in vocabulary), first)
        if last is None:
            raise DataError(
                f"{path} has no token that ends a document (looked for {', '.join(_EOS_NAMES + _BOS_NAMES)}); "
                "add one as a special token"
            )
        self.bos, self.eos = (last if first is None else first), last
        self._token_bytes = _byte_level_lengths(json.loads(text), vocabulary, self.vocab_size)

    def encode(self, text: str | bytes, *, bos: bool = False, eos: bool = False) -> list[int]:
        """Ids of a text. Bytes that are not UTF-8 are read as U+FFFD."""
        ids = self._library.encode(_as_text(text), add_special_tokens=False).ids
        return [self.bos] * bos + ids + [self.eos] * eos

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return str(self._library.decode(list(ids), skip_special_tokens=True))

    def encode_with_lengths(self, data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Ids (N,) and the bytes of text that each stands for (N,); these sum to `len(data)`.

        Byte-level BPE: the exact bytes of each token, from the vocabulary. Else (and where bytes are not UTF-8) from
        the positions that the library reports: a token stands for the bytes from the furthest end before it to its own,
        and what is dropped at the end of a text belongs to the last token.
        """
        encoding = self._library.encode(_as_text(data), add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        if self._token_bytes is not None:
            lengths = self._token_bytes[ids]
            if lengths.sum() == len(data) and _is_utf8(data):
                return ids, lengths
        ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
        ends = np.concatenate([[0], _character_ends(data)])[ends]
        if ends.size:
            ends[-1] = len(data)
        return ids, np.diff(np.maximum.accumulate(ends), prepend=0)


def load_tokenizer(name: str) -> ByteTokenizer | FileTokenizer:
    """`bytes`, or a `tokenizers` JSON file. Raises DataError for a file that is none."""
    return ByteTokenizer() if name == "bytes" else FileTokenizer(name)


def is_of_bytes(vocab_size: int) -> bool:
    """Whether a model of this vocabulary reads bytes: 256 symbols, or the 260 of BLT, whose last four no text has."""
    return vocab_size in (ByteTokenizer.vocab_size, 260)


def check_vocab_size(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Raises ConfigError if the model's vocabulary has no row for some id of the tokenizer, or is none of bytes."""
    if isinstance(tokenizer, ByteTokenizer) and not is_of_bytes(vocab_size):
        raise ConfigError(
            f"model.vocab_size is {vocab_size}, but data.tokenizer is `bytes`, which has {tokenizer.vocab_size} ids; "
            "set data.tokenizer to the model's `tokenizers` JSON file, or model.vocab_size to 256 (260 for BLT)"
        )
    if vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"model.vocab_size is {vocab_size}, but the tokenizer has {tokenizer.vocab_size} ids; "
            f"set model.vocab_size to at least {tokenizer.vocab_size}"
        )


def check_layout(tokenizer: Tokenizer, layout: Layout) -> None:
    """Raises ConfigError if the layout's rule reads bytes and the tokenizer gives something else."""
    if layout.rule is not None and not isinstance(tokenizer, ByteTokenizer):
        raise ConfigError(
            f"the model's chunks begin where {layout.rule} says, which reads bytes, but data.tokenizer is a file; "
            "set data.tokenizer to `bytes`, or take a model that finds its chunks itself"
        )


def _as_text(text: str | bytes) -> str:
    """One character for each character, and one U+FFFD for each byte or surrogate that is none."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _character_ends(data: bytes) -> NDArray[np.int64]:
    """End in bytes of each character of `_as_text(data)`."""
    codes = np.frombuffer(data.decode("utf-8", "surrogateescape").encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    escaped = (codes >= 0xD800) & (codes <= 0xDFFF)
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.cumsum(np.where(escaped, 1, widths))


def _byte_level_lengths(spec: dict[str, Any], vocabulary: dict[str, int], size: int) -> NDArray[np.int64] | None:
    """Bytes of each id of a byte-level BPE, where one character of a token is one byte; None for other tokenizers."""
    if '"ByteLevel"' not in json.dumps([spec.get("pre_tokenizer"), spec.get("decoder")]):
        return None
    added = {token["id"]: token["content"] for token in spec.get("added_tokens", [])}
    lengths = np.zeros(size, dtype=np.int64)
    for token, number in vocabulary.items():
        lengths[number] = len(added[number].encode()) if number in added else len(token)
    return lengths
