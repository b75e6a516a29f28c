"""The whole stream."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from hnet.data.config import DataConfig
from hnet.data.prepare import prepare
from hnet.data.stream import TrainStream, build_stream
from hnet.errors import ConfigError, DataError

STEP = 4


def write_jsonl(path: Path) -> Path:
    path.write_text("\n".join(json.dumps({"text": f"row {number} " * (number % 6)}) for number in range(40)))
    return path


@pytest.fixture
def configs(text_folder: Path, tmp_path: Path, datasets_cache: Path, tokenizer_file: Path) -> dict[str, dict[str, Any]]:
    rows = write_jsonl(tmp_path / "rows.jsonl")
    prepare(str(text_folder), str(tmp_path / "store"), shard_bytes=300, progress=False)
    streamed = {"path": str(rows), "streaming": True, "weight": 0.7}
    return {
        "text": {"train": str(text_folder)},
        "in order, whole": {"train": str(text_folder), "shuffle": False, "packing": "whole"},
        "store": {"train": str(tmp_path / "store")},
        "table": {"train": str(rows)},
        "streamed": {"train": [streamed], "shuffle_buffer": 7},
        "tokens": {"train": str(text_folder), "tokenizer": str(tokenizer_file)},
        "mixture": {
            "train": [str(text_folder), {"path": str(tmp_path / "store"), "weight": 2.5}, streamed],
            "shuffle_buffer": 11,
        },
    }


def open_stream(
    options: dict[str, Any], rank: int = 0, world_size: int = 1, micro: int = 1, seed: int = 3
) -> TrainStream:
    config = DataConfig(**{"sequence_length": 64} | options)
    return build_stream(
        config, seed=seed, rank=rank, world_size=world_size, windows_per_step=STEP, micro_batch_windows=micro
    )


NAMES = ["text", "in order, whole", "store", "table", "streamed", "tokens", "mixture"]


@pytest.mark.parametrize("name", NAMES)
def test_resumes_anywhere_over_epochs(configs: dict[str, Any], assert_resumes: Any, name: str) -> None:
    opened = []

    def make() -> TrainStream:
        opened.append(open_stream(configs[name] | {"prefetch": 0, "sequence_length": 128}))
        return opened[-1]

    assert_resumes(make, 50)
    streams = opened[0].state_dict()["batches"]["packer"]["documents"]["streams"]
    assert max(stream["epoch"] for stream in streams) >= 1


@pytest.mark.parametrize(("rank", "world_size", "micro"), [(0, 1, 1), (0, 1, 4), (1, 2, 1), (0, 2, 2)])
def test_resumes_anywhere_with_prefetch(
    configs: dict[str, Any], assert_resumes: Any, rank: int, world_size: int, micro: int
) -> None:
    opened = []

    def make() -> TrainStream:
        opened.append(open_stream(configs["mixture"] | {"prefetch": 3}, rank, world_size, micro))
        return opened[-1]

    assert_resumes(make, 14)
    for stream in opened:
        stream.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_the_same_on_any_number_of_ranks(configs: dict[str, Any], name: str) -> None:
    def steps(world_size: int, micro: int) -> list[int]:
        ranks = [open_stream(configs[name], rank, world_size, micro) for rank in range(world_size)]
        units = []
        for _ in range(6 * STEP // (world_size * micro)):
            for stream in ranks:
                units += next(stream).input_ids.tolist()
        for stream in ranks:
            stream.close()
        return units

    assert steps(2, 1) == steps(1, 1) == steps(1, 4) == steps(4, 1)


def test_continues_on_another_number_of_ranks(configs: dict[str, Any]) -> None:
    with open_stream(configs["mixture"], micro=4) as alone:
        for _ in islice(alone, 3):
            pass
        state = json.loads(json.dumps(alone.state_dict()))
        expected = next(alone).input_ids.tolist()
    units = []
    for rank in range(4):
        with open_stream(configs["mixture"], rank, 4) as stream:
            stream.load_state_dict(state)
            units += next(stream).input_ids.tolist()
    assert units == expected


def test_the_seed_decides(configs: dict[str, Any]) -> None:
    def units(seed: int) -> list[int]:
        with open_stream(configs["text"], seed=seed) as stream:
            return [unit for batch in islice(stream, 10) for unit in batch.input_ids.tolist()]

    assert units(3) == units(3) != units(4)


def test_an_epoch_predicts_every_byte_once(text_folder: Path) -> None:
    sizes = [path.stat().st_size for path in text_folder.iterdir()]
    units = sum(sizes) + 2 * len(sizes)
    with open_stream({"train": str(text_folder), "sequence_length": units // 2 + units % 2}) as stream:
        batches = list(islice(stream, 2))
    assert sum(batch.target_bytes for batch in batches) - sum(sizes) in (0, units % 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence_length": 32}, "sequence_length was 64 and is now 32"),
        ({"shuffle": False}, "shuffle was True and is now False"),
        ({"packing": "whole"}, "packing was 'split' and is now 'whole'"),
        ({"train": "sample:train"}, "sources was .* and is now"),
    ],
)
def test_a_state_of_other_data_is_refused(configs: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with open_stream(configs["text"]) as stream:
        next(stream)
        state = stream.state_dict()
    with open_stream(configs["text"] | change) as other, pytest.raises(DataError, match=message):
        other.load_state_dict(state)
    with open_stream(configs["text"], seed=4) as other, pytest.raises(DataError, match="seed was 3 and is now 4"):
        other.load_state_dict(state)
    with open_stream(configs["text"]) as same, pytest.raises(DataError, match="has version 9; this program reads 1"):
        same.load_state_dict(state | {"version": 9})


def test_moved_data_is_the_same_data(text_folder: Path, configs: dict[str, Any]) -> None:
    with open_stream(configs["text"]) as stream:
        next(stream)
        state, expected = stream.state_dict(), next(stream).input_ids.tolist()
    moved = text_folder.rename(text_folder.with_name("moved"))
    with open_stream({"train": str(moved)}) as stream:
        stream.load_state_dict(state)
        assert next(stream).input_ids.tolist() == expected


def test_no_held_out_source() -> None:
    with pytest.raises(ConfigError, match=r"data\.validation names no source"):
        build_stream(
            DataConfig(train="sample:train"), split="validation", seed=0, windows_per_step=1, micro_batch_windows=1
        )
