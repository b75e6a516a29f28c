"""Objectives besides the next unit: words without a way back to bytes, a head of k sub-words, labels of documents."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hnet.config import load_config
from hnet.errors import ConfigError
from hnet.inference.generation import generate
from hnet.model.config import ModelConfig
from hnet.model.config.objectives import MaskedWordsConfig
from hnet.model.language_model import LanguageModel
from hnet.model.losses import IGNORE
from hnet.testing.strategies import random_model

ATTENTION = {"num_heads": 2, "rotary_dim": 8}
MASKED = {"type": "masked_words", "vocab_size": 40, "slots": 3, "head_width": 12}
LABELS = {"type": "classification", "labels": ["good", "bad", "none"]}
TEXTS = [b"\xfeThe  cat sat.\xff", b"\xfe", b"\xfeon a mat, 12 times\xff"]


def config(objective: dict[str, Any] = MASKED, **outer: Any) -> ModelConfig:
    """Byte2Word in small, with keys of its outermost stage replaced."""
    stage = {
        "d_model": 16, "encoder": "", "decoder": "", "residual": "identity", "final_norms": [],
        "boundary": {"type": "words"}, "unpool": {"type": "none"},
        "pool": {"type": "cross_attention", "query": "learned", "num_heads": 2, "rotary_dim": 4},
    }  # fmt: skip
    inner = {"d_model": 32, "main": "T2", "main_mask": "bidirectional", "attention": ATTENTION}
    return ModelConfig.model_validate({"objective": objective, "stages": [stage | outer, inner]})


def pack(texts: list[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([0, *(len(text) for text in texts)])
    return torch.tensor(list(b"".join(texts))), lengths.cumsum(0).int()


@pytest.mark.parametrize("objective", [MASKED, LABELS, LABELS | {"pool": "first"}], ids=["masked", "mean", "first"])
def test_packed_equals_each_document_alone(objective: dict[str, Any]) -> None:
    model = random_model(config(objective), seed=1)
    together = model(*pack(TEXTS)).logits
    alone = torch.cat([model(*pack([text])).logits for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=1e-7)
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(text)) for text in TEXTS], batch_first=True)
    mask = torch.arange(padded.shape[1])[None] < torch.tensor([len(text) for text in TEXTS])[:, None]
    torch.testing.assert_close(model(padded, attention_mask=mask).logits, alone, atol=1e-9, rtol=1e-7)


def test_words_are_predicted_from_both_sides_in_k_slots() -> None:
    model = random_model(config(), seed=2)
    logits = model(*pack([b"one two three"])).logits
    assert logits.shape == (3, 3, 40)
    assert not torch.allclose(logits[0], model(*pack([b"one two thrEE"])).logits[0])
    assert not torch.allclose(logits[:, 0], logits[:, 1])
    chosen = model(*pack([b"one two three"]), targets=torch.tensor([2, 0])).logits
    torch.testing.assert_close(chosen, logits[[2, 0]])


def test_slots_without_a_sub_word_count_nothing() -> None:
    model = random_model(config(), seed=3)
    ids, cu_seqlens = pack([b"one two three"])
    labels = torch.tensor([[5, IGNORE, IGNORE], [7, 8, 9]])
    losses = model.loss(ids, cu_seqlens, labels, targets=torch.tensor([0, 2]))
    log = model(ids, cu_seqlens).logits.log_softmax(-1)
    expected = -(log[0, 0, 5] + log[2, 0, 7] + log[2, 1, 8] + log[2, 2, 9]) / 4
    torch.testing.assert_close(losses.cross_entropy, expected)
    with pytest.raises(ValueError, match="masked_words: the text alone has no labels"):
        model.loss(ids, cu_seqlens)


@pytest.mark.parametrize("objective", [MASKED, LABELS], ids=["masked", "labels"])
def test_the_declared_weights_are_the_parameters(objective: dict[str, Any]) -> None:
    model = LanguageModel(config(objective), device="meta")
    weights = model.config.objective.head_weights(model.config.head_sizes)
    assert [weight.numbers for weight in weights] == [parameter.numel() for parameter in model.head.parameters()]


def test_a_flat_model_and_one_with_a_decoder_classify_too() -> None:
    flat = {"stages": [{"d_model": 32, "main": "T1", "attention": ATTENTION}], "objective": LABELS}
    chunked = {"stages": [{"d_model": 32, "encoder": "t1", "decoder": "t1", "attention": ATTENTION}, *flat["stages"]]}
    for tree in (flat, flat | chunked):
        model = random_model(ModelConfig.model_validate(tree), seed=4)
        assert model(*pack(TEXTS)).logits.shape == (3, 3)
        assert not model.config.is_causal


REFUSED = {
    "main_mask: bidirectional shows later units": {"objective": {"type": "next_unit"}},
    "unpool none gives chunks, and the targets are units": {"objective": {"type": "next_unit"}, "causal": True},
    "the targets are words, and the outermost stage gives units": {"unpool": {"type": "ema"}, "pool": {}},
    "boundary router is not known from the text alone": {"boundary": {"type": "router"}, "encoder": "t1"},
    "without separators": {"boundary": {"type": "words", "separators": 1}},
    "unpool none leaves no units to decode": {"decoder": "t1", "attention": ATTENTION},
}


@pytest.mark.parametrize(("reason", "change"), REFUSED.items(), ids=REFUSED.keys())
def test_what_does_not_go_together_is_refused(reason: str, change: dict[str, Any]) -> None:
    tree = config().model_dump(mode="json")
    change = dict(change)
    tree["objective"] = change.pop("objective", tree["objective"])
    if change.pop("causal", False):
        tree["stages"][1]["main_mask"] = "causal"
    tree["stages"][0] |= change
    with pytest.raises(ValidationError, match=reason):
        ModelConfig.model_validate(tree)


@pytest.mark.parametrize("objective", [MASKED, LABELS], ids=["masked", "labels"])
def test_such_a_model_refuses_to_continue_a_text(objective: dict[str, Any]) -> None:
    model = random_model(config(objective), seed=5)
    with pytest.raises(ConfigError, match=f"cannot continue a text: its objective is {objective['type']}"):
        generate(model, ["one"])


def test_shares_and_ties_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"masked 0\.8 \+ exchanged 0\.5 is more than 1"):
        MaskedWordsConfig(exchanged=0.5)
    with pytest.raises(ValidationError, match="tie_embeddings: objective masked_words has no head over units"):
        ModelConfig.model_validate(config().model_dump(mode="json") | {"tie_embeddings": True})
    with pytest.raises(ValidationError, match="give each once"):
        config(LABELS | {"labels": ["a", "a"]})


def test_a_pack_without_a_target_leaves_gradients_of_zero() -> None:
    """A rank may be dealt one, and takes part all the same."""
    model = LanguageModel(load_config(ModelConfig, "byte2word_small"))
    none = torch.zeros(0, dtype=torch.int64)
    ids, cu_seqlens = torch.tensor([254, 72, 105]), torch.tensor([0, 3], dtype=torch.int32)
    losses = model.loss(ids, cu_seqlens, targets=none, labels=none.view(0, 4))
    losses.total.backward()
    assert losses.total == 0
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())
