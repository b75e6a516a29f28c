"""Masked words: which words are hidden and how, and what their labels are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hnet.data.batch import IGNORE, Batch
from hnet.data.config import DataConfig
from hnet.data.masked_words import MASK, MaskedWords, Masking
from hnet.data.stream import TrainStream, build_stream
from hnet.data.subwords import load_subwords, main
from hnet.data.tokenizer import ByteTokenizer, FileTokenizer
from hnet.data.validation import validation_batches
from hnet.errors import ConfigError
from hnet.segmentation.layout import Layout
from hnet.segmentation.words import WordsRule

LAYOUT = Layout(WordsRule("unicode", 100))
CONFIG = DataConfig(train="sample:train", validation="sample:validation", sequence_length=256, prefetch=0)  # type: ignore[arg-type]
WINDOWS = 8


def task(seed: int = 0, **shares: float) -> MaskedWords:
    return MaskedWords(LAYOUT, ByteTokenizer(), Masking(slots=3, **shares), seed=seed)


def stream(masked: MaskedWords, rank: int = 0, world_size: int = 1, micro_batch: int = WINDOWS) -> TrainStream:
    return build_stream(
        CONFIG, seed=0, rank=rank, world_size=world_size, windows_per_step=WINDOWS, micro_batch_windows=micro_batch,
        task=masked,
    )  # fmt: skip


def words(batch: Batch) -> list[bytes]:
    """The words of a batch as the model reads them."""
    assert batch.marks is not None
    begins = (batch.marks > 0) | torch.zeros(len(batch.marks), dtype=torch.bool).index_fill(
        0, batch.cu_seqlens[:-1].long(), True
    )
    return [bytes(word.tolist()) for word in np.split(batch.input_ids.numpy(), np.flatnonzero(begins.numpy())[1:])]


def plain(num_steps: int) -> list[list[bytes]]:
    """The same text with nothing hidden."""
    batches = stream(task(masked=0.0, exchanged=0.0))
    return [words(next(batches)) for _ in range(num_steps)]


def test_labels_are_the_words_that_are_hidden() -> None:
    batches, counts = stream(task()), {"mask": 0, "other": 0, "same": 0}
    num_words = 0
    for original in plain(20):
        batch = next(batches)
        read, targets = words(batch), batch.targets
        assert targets is not None and len(read) == len(original)
        assert all(a == b for index, (a, b) in enumerate(zip(read, original, strict=True)) if index not in targets)
        for target, labels in zip(targets.tolist(), batch.labels, strict=True):
            word = original[target]
            assert word not in (b"\xfe", b"\xff")
            assert labels.tolist() == [*word[:3], *[IGNORE] * (3 - len(word))]
            hidden = read[target]
            counts["mask" if hidden == bytes([MASK]) else "same" if hidden == word else "other"] += 1
        assert batch.num_targets == int((batch.labels != IGNORE).sum())
        num_words += len(original)
    total = sum(counts.values())
    assert total / num_words == pytest.approx(0.15, abs=0.015)
    assert counts["mask"] / total == pytest.approx(0.8, abs=0.04)
    assert counts["other"] / total == pytest.approx(0.1, abs=0.03)


def test_words_that_a_window_cuts_are_no_targets() -> None:
    batches = stream(task(fraction=0.999, masked=0.0, exchanged=0.0))
    batch = next(batches)
    assert batch.targets is not None
    hidden = set(batch.targets.tolist())
    read, ends = words(batch), batch.cu_seqlens.tolist()
    place = 0
    for index, word in enumerate(read):
        if place in ends[1:-1] and word != b"\xfe":
            assert index not in hidden
        place += len(word)
    assert len(hidden) > 0.8 * len(read)


def tensors(batch: Batch) -> list[list[int]]:
    assert batch.targets is not None and batch.marks is not None
    fields = (batch.input_ids, batch.labels.flatten(), batch.cu_seqlens, batch.marks, batch.targets)
    return [tensor.tolist() for tensor in fields]


def test_ranks_micro_batches_and_resumes_change_nothing() -> None:
    alone = stream(task())
    first, second = next(alone), next(alone)
    shares = [stream(task(), rank, 2, WINDOWS // 4) for rank in range(2)]
    pieces = [next(shares[index % 2]) for index in range(4)]
    assert torch.equal(torch.cat([piece.input_ids for piece in pieces]), first.input_ids)
    assert torch.equal(torch.cat([piece.labels for piece in pieces]), first.labels)
    resumed = stream(task(), 0, 1)
    resumed.load_state_dict(shares[0].state_dict())
    assert tensors(next(resumed)) == tensors(second)
    assert tensors(next(stream(task(seed=1)))) != tensors(first)


def test_held_out_words_are_hidden_alike_at_every_pass_and_on_any_ranks() -> None:
    def labels(world_size: int) -> torch.Tensor:
        ranks = [
            validation_batches(CONFIG, rank=rank, world_size=world_size, micro_batch_windows=2, task=task())
            for rank in range(world_size)
        ]
        return torch.cat([batch.labels for together in zip(*ranks, strict=True) for batch in together])

    assert torch.equal(labels(1), labels(1))
    assert torch.equal(labels(1), labels(2))


def test_a_rank_without_data_has_a_batch_without_targets() -> None:
    batch = task().empty(254)
    assert batch.labels.shape == (0, 3) and batch.num_targets == 0 and batch.target_bytes == 0
    assert batch.input_ids.tolist() == [254] and batch.marks is not None and not batch.marks.any()


def test_the_shipped_sub_words_fit_the_shipped_model() -> None:
    subwords = load_subwords("sample", 2048)
    assert isinstance(subwords, FileTokenizer) and subwords.vocab_size == 2048
    assert subwords.decode(subwords.encode(" mountains")) == " mountains"
    with pytest.raises(ConfigError, match=r"model\.objective\.vocab_size is 100, but data\.subwords .* 2048"):
        load_subwords("sample", 100)


def test_sub_words_are_made_by_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.txt").write_text("low lower lowest " * 50)
    out = tmp_path / "made.json"
    monkeypatch.setattr("sys.argv", ["subwords", "--out", str(out), "--vocab-size", "262", str(tmp_path / "text.txt")])
    main()
    made = load_subwords(str(out), 262)
    assert len(made.encode(" low")) == 1 < len(made.encode(" wol"))
