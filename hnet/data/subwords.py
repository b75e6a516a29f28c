"""Sub-words of words, the labels of masked words: read from a file, or made from text.

    python -m hnet.data.subwords --out subwords.json --vocab-size 2048 SOURCE...

`sample/subwords.json` is that of 2048 sub-words from `sample:train`.
"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

from hnet.data.config import SourceConfig
from hnet.data.sample_text import FOLDER
from hnet.data.sources import open_source
from hnet.data.streamed import StreamedSource
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer, load_tokenizer
from hnet.errors import ConfigError

SAMPLE = "sample"
"""Name of the sub-words that ship with the package, made from its sample text."""


def load_subwords(name: str, vocab_size: int) -> ByteTokenizer | FileTokenizer:
    """`sample`, `bytes` or a `tokenizers` JSON file.

    Raises DataError for a file that is none, ConfigError if the head has no logit for some sub-word.
    """
    tokenizer = FileTokenizer(FOLDER / "subwords.json") if name == SAMPLE else load_tokenizer(name)
    if tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"model.objective.vocab_size is {vocab_size}, but data.subwords ({name}) has {tokenizer.vocab_size} "
            f"sub-words; set model.objective.vocab_size to {tokenizer.vocab_size}, or give other sub-words"
        )
    return tokenizer


def make_subwords(texts: Iterable[str], vocab_size: int, out: Path) -> None:
    """Train byte-level BPE on `texts` and write its JSON file to `out`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(out), pretty=False)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m hnet.data.subwords", description="Make sub-words from text.")
    parser.add_argument("sources", nargs="+", help="paths or names, as in data.train")
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--vocab-size", type=int, default=2048)
    given = parser.parse_args()
    make_subwords((text for name in given.sources for text in _texts(name)), given.vocab_size, given.out)


def _texts(name: str) -> Iterator[str]:
    source = open_source(SourceConfig(path=name))
    assert not isinstance(source, StreamedSource), "streaming is off by default"
    for index in range(len(source)):
        yield source.read(index).tobytes().decode("utf-8", "replace")


if __name__ == "__main__":
    main()
