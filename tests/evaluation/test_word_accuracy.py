"""Next-word accuracy is the same question for every architecture."""

import math

import numpy as np
import pytest
import torch

from hnet.config import load_config
from hnet.evaluation.word_accuracy import NO_WORD, WordCounts, count_right_words, words_of_labels
from hnet.model.config import ModelConfig
from hnet.segmentation.words import WordsRule

TEXT = np.array([254, *"One, zwei  日本 end of it".encode(), 255], dtype=np.int64)
WORDS = ["One,", " zwei", "  ", "日", "本", " end", " of", " it"]
RULE = WordsRule()


def logits_of(labels: np.ndarray, wrong: list[int]) -> torch.Tensor:
    """The most likely unit is the label, but at the positions `wrong`."""
    best = np.where(labels < 0, 0, labels)
    best[wrong] = (best[wrong] + 1) % 256
    return torch.nn.functional.one_hot(torch.from_numpy(best), 256).double()


@pytest.mark.parametrize(
    "name", ["byte_transformer_small", "hnet_small", "hat_small", "etok_small", "megabyte_small", "tfree_hat_small"]
)
def test_every_architecture_has_the_same_words(name: str) -> None:
    layout = load_config(ModelConfig, name).layout()
    laid = layout.lay_out(TEXT)
    words = words_of_labels(laid.ids, laid.labels, RULE, layout.separators)
    numbers = sorted(set(words.tolist()) - {NO_WORD})
    written = [laid.labels[words == number] for number in numbers]
    assert [bytes(unit for unit in word if unit < 128 or unit in "日本".encode()).decode() for word in written] == WORDS
    assert all(np.isin(word[:-1], layout.separators).sum() == 0 for word in written)
    ends = [word[-1] in layout.separators for word in written]
    assert all(ends) if layout.separators and layout.predict_separator else not any(ends)
    labels = torch.from_numpy(laid.labels)
    for count, wrong in [(8, []), (7, [np.flatnonzero(words == numbers[1])[2]])]:
        assert count_right_words(logits_of(laid.labels, wrong), labels, torch.from_numpy(words)) == (count, 8)


def test_a_word_is_right_only_with_its_end() -> None:
    layout = load_config(ModelConfig, "hat_small").layout()
    laid = layout.lay_out(TEXT)
    words = words_of_labels(laid.ids, laid.labels, RULE, layout.separators)
    end = np.flatnonzero((laid.labels == layout.separators[0]) & (words != NO_WORD))[:1]
    counts = count_right_words(
        logits_of(laid.labels, end.tolist()), torch.from_numpy(laid.labels), torch.from_numpy(words)
    )
    assert counts == (7, 8) and counts.accuracy == 7 / 8


def test_words_that_are_cut_do_not_count() -> None:
    layout = load_config(ModelConfig, "hnet_small").layout()
    laid = layout.lay_out(TEXT[3:12], TEXT[12:])
    words = words_of_labels(laid.ids, laid.labels, RULE)
    # Of "e," not all bytes are predicted; "  " is the last word that is known, and may be cut.
    assert bytes(laid.labels[words != NO_WORD].tolist()) == b" zwei"
    assert bytes(laid.labels[words == NO_WORD].tolist()) == b",  " + bytes(TEXT[12:13].tolist())


def test_sequences_add_and_none_is_no_number() -> None:
    labels, words = torch.tensor([1, 2, 3]), torch.full((3,), NO_WORD)
    assert count_right_words(torch.zeros(3, 256), labels, words) == WordCounts(0, 0)
    assert math.isnan(WordCounts(0, 0).accuracy)
    assert words_of_labels(np.array([254]), np.array([-100]), RULE).tolist() == [NO_WORD]
    with pytest.raises(ValueError, match="must agree"):
        count_right_words(torch.zeros(3, 256), labels, words[:2])
