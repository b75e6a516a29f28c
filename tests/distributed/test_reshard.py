"""A run saved by 4 ranks at ZeRO-3 goes on with 1, 2 or 3 ranks and other ways to shard, as if nothing had happened.

Tolerance: losses within 1e-5 of the undisturbed run's, gradient norms within 1e-4 (relative, fp32). The same numbers
are added up in another order; nothing else changes.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import hnet
from hnet.config import load_config
from hnet.data.batch import Batch
from hnet.data.document import State
from hnet.data.stream import TrainStream
from hnet.testing.ranks import run_distributed
from hnet.training.config import RunConfig
from hnet.training.engine import open_engine
from hnet.training.run import open_run, open_stream

STEPS, SAVED = 5, 2
WINDOW, WINDOWS_PER_STEP = 64, 10
Result = dict[str, Any]


def make_config(folder: Path, *overrides: str) -> RunConfig:
    tree: dict[str, Any] = {
        "output_dir": str(folder),
        "model": "hnet_tiny",
        "data": {"train": "sample:train", "sequence_length": WINDOW, "validation": []},
        "training": {
            "steps": STEPS, "global_batch_bytes": WINDOWS_PER_STEP * WINDOW, "micro_batch_bytes": 2 * WINDOW,
            "ratio_loss_scope": "global_batch", "peak_flops": 1e10,
        },
        "optimizer": {"learning_rate": 2e-3, "lr_multipliers": [1.7, 0.9]},
    }  # fmt: skip
    return load_config(RunConfig, tree, overrides)


class Watched:
    """A stream that notes what it gives out: input and label of every unit, by step and micro-batch."""

    def __init__(self, stream: TrainStream) -> None:
        self._stream = stream
        self.seen: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._stream)
        pairs = zip(batch.input_ids.tolist(), batch.labels.tolist(), strict=True)
        self.seen.append(list(pairs) if batch.num_targets else [])
        return batch

    def state_dict(self) -> State:
        return self._stream.state_dict()


def train_on(rank: int, folder: Path, overrides: tuple[str, ...], save_at: int | None) -> Result:
    """From where the folder's checkpoint is, or the beginning, to the last step."""
    with open_run(make_config(folder, *overrides)) as run:
        stream = Watched(run.stream)
        run.stream = stream  # type: ignore[assignment]
        weights = {one.tensor: one.values.clone() for one in run.engine.fragments()}
        results = []
        while not run.is_finished:
            results.append(run.next_step())
            run.writer.poll()
            if run.state.step == save_at:
                run.save()
        run.writer.wait()
    losses, norms = [result.loss for result in results], [result.grad_norm for result in results]
    return {"losses": losses, "norms": norms, "seen": stream.seen, "weights": weights}


def in_global_order(results: list[Result]) -> list[tuple[int, int]]:
    """What all ranks saw, micro-batch by micro-batch and rank by rank."""
    return [
        pair
        for micro_batch in zip(*(result["seen"] for result in results), strict=True)
        for part in micro_batch
        for pair in part
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Result]]:
    """Four ranks at ZeRO-3 that save in the background after step 2 and go on."""
    folder = tmp_path_factory.mktemp("undisturbed")
    overrides = ("engine.zero_stage=3", "training.async_checkpoints=true")
    return folder, run_distributed(train_on, 4, folder, overrides, SAVED, timeout=300)


def test_four_ranks_write_their_own_files(undisturbed: tuple[Path, list[Result]]) -> None:
    checkpoint = undisturbed[0] / "checkpoints" / "latest"
    parts = [f"{kind}-{rank:05d}-of-00004.safetensors" for kind in ("model", "optimizer") for rank in range(4)]
    others = ["config.yaml", "index.json", "manifest.json", "random.safetensors", "state.json"]
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted([*parts, *others])
    sizes = [(checkpoint / name).stat().st_size for name in parts]
    assert max(sizes[:4]) < 1.05 * min(sizes[:4])
    assert max(sizes[4:]) < 1.05 * min(sizes[4:])


@pytest.mark.parametrize(
    ("num_ranks", "engine"),
    [
        (1, "engine.zero_stage=null"),
        (2, "engine.zero_stage=null"),
        (2, "engine.zero_stage=1"),
        (2, "engine.zero_stage=3"),
        (2, "engine.fsdp=true"),
        (3, "engine.zero_stage=3"),
    ],
    ids=["one process", "2 with DDP", "2 at ZeRO-1", "2 at ZeRO-3", "2 with FSDP2", "3 at ZeRO-3"],
)
def test_it_goes_on_as_if_nothing_had_happened(
    undisturbed: tuple[Path, list[Result]], tmp_path: Path, num_ranks: int, engine: str
) -> None:
    folder, reference = undisturbed
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints", symlinks=True)
    results = run_distributed(train_on, num_ranks, tmp_path, (engine,), None, timeout=300)
    assert results[0]["losses"] == pytest.approx(reference[0]["losses"][SAVED:], rel=1e-5)
    assert results[0]["norms"] == pytest.approx(reference[0]["norms"][SAVED:], rel=1e-4)
    before = [{"seen": result["seen"][: SAVED * 2]} for result in reference]
    assert in_global_order(before) + in_global_order(results) == from_one_stream(tmp_path)
    if num_ranks == 1:
        saved = {f"weight/{name}": value for name, value in hnet.load(folder).named_parameters()}
        loaded = {name: value for name, value in results[0]["weights"].items() if name in saved}
        assert loaded.keys() == saved.keys()
        assert all(torch.equal(value, saved[name].flatten()) for name, value in loaded.items())


def from_one_stream(folder: Path) -> list[tuple[int, int]]:
    """Input and label of every unit of all steps, read by one process from the beginning."""
    config = make_config(folder)
    with open_stream(config, open_engine(config)) as stream:
        watched = Watched(stream)
        for _ in range(STEPS * WINDOWS_PER_STEP // 2):
            next(watched)
    return in_global_order([{"seen": watched.seen}])
