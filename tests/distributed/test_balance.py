"""Windows dealt out anew: all of them, once, whole; and the training is the same but for rounding."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hnet.config import load_config
from hnet.data.batch import Batch
from hnet.data.config import DataConfig
from hnet.data.stream import build_stream
from hnet.distributed import balance
from hnet.distributed.balance import WindowBalance, join_windows, split_windows
from hnet.segmentation.layout import PLAIN, Layout
from hnet.segmentation.words import WordsRule
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.run import open_run

WINDOW = 64
STEP = 16
WORDS = Layout(WordsRule(), (253,))


def mixed_text(path: Path) -> str:
    """Documents of words, of one letter, and of digits: what they cost shows in their bytes."""
    draw = random.Random(3)
    kinds = [lambda: " ".join(["to"] * draw.randrange(4, 60)), lambda: "a" * draw.randrange(9, 300), lambda: "7 " * 40]
    path.write_text("\f".join(draw.choice(kinds)() for _ in range(200)))
    return str(path)


def micro_batches(path: str, rank: int, world_size: int, size: int, layout: Layout = PLAIN) -> list[Batch]:
    config = DataConfig(train=[{"path": path, "split_on": "\f"}], sequence_length=WINDOW, packing="whole", prefetch=0)
    sizes = {"rank": rank, "world_size": world_size, "windows_per_step": STEP, "micro_batch_windows": size}
    stream = build_stream(config, seed=0, layout=layout, **sizes)
    return [next(stream) for _ in range(STEP // (world_size * size))]


def numbers(batch: Batch) -> list[Any]:
    return [
        batch.input_ids.tolist(), batch.labels.tolist(), batch.cu_seqlens.tolist(), batch.num_targets,
        batch.target_bytes, batch.windows.tolist(), batch.marks.tolist() if batch.marks is not None else None,
    ]  # fmt: skip


def deal(rank: int, path: str, size: int, layout: Layout) -> list[Any]:
    ranks = {"rank": rank, "world_size": 2, "device": torch.device("cpu")}
    dealer = WindowBalance(lambda units, context: units[0] + 9 * units[1], 2, sync="micro_batch", **ranks)
    batches = micro_batches(path, rank, 2, size, layout)
    assert dealer.deal(batches) is not batches
    # Spaces open chunks, of all ranks' batches alike.
    units = [[batch.input_ids.numel(), int((batch.input_ids == 32).sum())] for batch in batches]
    for _ in range(3):
        dealer.learn(batches, torch.tensor(units))
    dealt = dealer.deal(batches)
    return [[numbers(window) for window in split_windows(batch)] for batch in dealt]


@pytest.mark.parametrize(("size", "layout"), [(1, PLAIN), (4, PLAIN), (4, WORDS)])
def test_every_window_goes_to_one_rank_and_work_is_level(tmp_path: Path, size: int, layout: Layout) -> None:
    path = mixed_text(tmp_path / "text")
    plain = [micro_batches(path, rank, 2, size, layout) for rank in range(2)]
    dealt = run_distributed(deal, 2, path, size, layout)
    expected = [numbers(window) for batches in plain for batch in batches for window in split_windows(batch)]
    given = [window for batches in dealt for batch in batches for window in batch]
    assert sorted(map(str, given)) == sorted(map(str, expected)) and given != expected
    assert all(len(batch) == size for batches in dealt for batch in batches)

    def slowest(chunks: list[list[int]]) -> int:
        return sum(max(pair) for pair in zip(*chunks, strict=True))

    before = slowest([[int((b.input_ids == 32).sum()) for b in batches] for batches in plain])
    after = slowest([[sum(w[0].count(32) for w in batch) for batch in batches] for batches in dealt])
    assert after < before


@pytest.mark.parametrize("layout", [PLAIN, WORDS])
def test_windows_of_a_batch_join_to_it(tmp_path: Path, layout: Layout) -> None:
    (batch,) = micro_batches(mixed_text(tmp_path / "text"), 0, 1, STEP, layout)
    windows = split_windows(batch)
    assert len(windows) == STEP
    assert numbers(join_windows(windows)) == numbers(batch)


def train(rank: int, tree: dict[str, Any], num_steps: int, *, save_after: int | None = None) -> dict[str, Any]:
    dealt = []
    original = balance.assign

    def recorded(*arguments: Any, **options: Any) -> Any:
        dealt.append(original(*arguments, **options))
        return dealt[-1]

    balance.assign = recorded
    results = []
    with open_run(load_config(RunConfig, tree)) as run:
        while run.state.step < num_steps:
            results.append(run.next_step())
            if run.state.step == save_after:
                run.save()
    return {
        "losses": [result.loss for result in results],
        "norms": [result.grad_norm for result in results],
        "assignments": [assignment.tolist() for assignment in dealt],
    }


def train_and_save(rank: int, tree: dict[str, Any]) -> dict[str, Any]:
    return train(rank, tree, 6, save_after=4)


def test_training_is_the_same_with_and_without_and_resumed(tmp_path: Path) -> None:
    data = {"train": [{"path": mixed_text(tmp_path / "text"), "split_on": "\f"}], "sequence_length": WINDOW}
    tree = {
        "output_dir": str(tmp_path / "plain"),
        "model": "hnet_tiny",
        "data": data | {"packing": "whole"},
        "training": {"global_batch_bytes": STEP * WINDOW, "ratio_loss_scope": "global_batch", "peak_flops": 1e9},
        "optimizer": {"learning_rate": 1e-3},
    }
    plain = train(0, tree, 6)
    tree = tree | {"engine": {"balance": "windows"}, "output_dir": str(tmp_path / "balanced")}
    ranks = run_distributed(train_and_save, 2, tree)
    assert ranks[0] == ranks[1]
    assert ranks[0]["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    assert ranks[0]["norms"] == pytest.approx(plain["norms"], rel=1e-3)
    in_order = [[list(range(8))], [list(range(8, 16))]]
    assert len(ranks[0]["assignments"]) == 6 and in_order not in ranks[0]["assignments"][1:]
    resumed = run_distributed(train, 2, tree, 6)
    assert resumed[0] == {name: values[4:] for name, values in ranks[0].items()}
