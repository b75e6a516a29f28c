import pytest
import torch

import hnet
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer
from hnet.errors import ConfigError
from hnet.inference.generation import generate, stream, stream_ids
from hnet.inference.sampling import Sampler
from hnet.model.language_model import LanguageModel
from hnet.segmentation.layout import PLAIN, Layout

STAGES = [
    {"d_model": 32, "encoder": "m1T1", "decoder": "m1", "ssm": {"d_state": 16, "head_dim": 16},
     "attention": {"num_heads": 2, "rotary_dim": 8, "window": 7}},
    {"d_model": 32, "encoder": "t1", "decoder": "m1", "ssm": {"d_state": 16, "head_dim": 16},
     "attention": {"num_heads": 2, "rotary_dim": 8}},
    {"d_model": 48, "main": "T2", "attention": {"num_heads": 2, "rotary_dim": 8}},
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    torch.manual_seed(3)
    model = hnet.build({"stages": STAGES}).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)
    return model


def test_cached_greedy_generation_is_the_argmax_of_full_forwards(model: LanguageModel) -> None:
    prompt = [254, *b"It was"]
    ids = list(prompt)
    stepped = stream_ids(model, prompt, Sampler(temperature=0, top_p=1, seed=0), bos=254, eos=255)
    for found in (unit for _, unit in zip(range(40), stepped, strict=False)):
        logits = model(torch.tensor(ids)).logits[-1]
        logits[254] = float("-inf")
        assert found == int(logits.argmax())
        ids.append(found)
    assert len(ids) > len(prompt) + 5


def test_seed_and_length(model: LanguageModel) -> None:
    first = generate(model, ["a", "a", b"\xff\xfe"], max_bytes=30, seed=1)
    assert first == generate(model, ["a", "a", b"\xff\xfe"], max_bytes=30, seed=1)
    assert first[1:] == generate(model, ["a", b"\xff\xfe"], max_bytes=30, seed=2)
    assert first[0] != first[1]
    assert all(0 < len(text) <= 30 for text in first)
    assert hnet.generate(model, [""], max_bytes=5) == generate(model, [""], max_bytes=5)


def test_prompts_must_be_a_list(model: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="give a list"):
        generate(model, "text")


class Script(torch.nn.Module):
    """A model that says a fixed text, whatever it reads."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.config = hnet.build("hnet_tiny", device="meta").config
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.text = text

    def layout(self) -> Layout:
        return PLAIN

    def new_cache(self, num_rows: int) -> list[int]:
        return [0] * num_rows

    def prefill(self, input_ids: torch.Tensor, cu_seqlens: torch.Tensor, cache: list[int], marks: None):  # type: ignore[no-untyped-def]
        return type("Output", (), {"logits": self.step(input_ids, cache)[0]})

    def step(self, ids: torch.Tensor, cache: list[int], marks: None = None):  # type: ignore[no-untyped-def]
        logits = torch.zeros(1, 256)
        logits[0, self.text[cache[0]]] = 9
        cache[0] += 1
        return logits, []


def pieces(text: bytes, max_bytes: int = 100) -> list[str]:
    return list(stream(Script(text), "", max_bytes=max_bytes, temperature=0))


def test_eos_stops() -> None:
    assert pieces(b"ab\xffcd") == ["a", "b"]
    assert pieces(b"\xff") == []


def test_only_whole_characters_are_streamed() -> None:
    assert pieces("aé中😀".encode() + b"\xff") == ["a", "é", "中", "😀"]
    assert pieces("中文".encode() + b"\xff", max_bytes=4) == ["中", "\ufffd"]
    assert "".join(pieces(b"a\xc3(\xff")) == "a\ufffd("


def test_bos_is_never_generated() -> None:
    assert pieces(b"a\xfeb\xff", max_bytes=3) == ["a", "\x00", "b"]


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 1.5}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        generate(Script(b"\xff"), ["a"], **settings)  # type: ignore[arg-type]


def test_nucleus_keeps_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def drawn(top_p: float, temperature: float = 1.0) -> set[int]:
        sampler = Sampler(temperature=temperature, top_p=top_p, seed=0)
        return {sampler(logits) for _ in range(300)}

    assert drawn(0.0) == {0}
    assert drawn(0.5) == {0}
    assert drawn(0.6) == {0, 1}
    assert drawn(0.81) == {0, 1, 2}
    assert drawn(1.0) == {0, 1, 2, 3}
    assert drawn(1.0, temperature=0.05) == {0}


def test_sampling_follows_the_probabilities() -> None:
    sampler = Sampler(temperature=2.0, top_p=1.0, seed=0)
    logits = 2 * torch.tensor([0.7, 0.2, 0.1]).log()
    counts = torch.bincount(torch.tensor([sampler(logits) for _ in range(3000)]), minlength=3)
    torch.testing.assert_close(counts / 3000, torch.tensor([0.7, 0.2, 0.1]), atol=0.03, rtol=0)


@pytest.fixture
def token_model(tmp_path) -> tuple[LanguageModel, FileTokenizer]:  # type: ignore[no-untyped-def]
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(["the cat and the dog 中文 中文"], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    tokenizer = FileTokenizer(tmp_path / "tokenizer.json")
    torch.manual_seed(0)
    return hnet.build({"vocab_size": tokenizer.vocab_size, "stages": STAGES[2:]}).eval(), tokenizer


def test_token_model(token_model: tuple[LanguageModel, FileTokenizer]) -> None:
    model, tokenizer = token_model
    (text,) = generate(model, ["the cat"], max_bytes=60, tokenizer=tokenizer)
    assert 0 < len(text.encode()) <= 60
    assert "".join(stream(model, "the cat", max_bytes=60, tokenizer=tokenizer)) == text
    with pytest.raises(ConfigError, match="tokenizer"):
        generate(model, ["the cat"])
    with pytest.raises(ConfigError, match="tokenizer"):
        generate(model, ["the cat"], tokenizer=ByteTokenizer())
