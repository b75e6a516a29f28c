"""Held-out batches."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from hnet.data.config import DataConfig
from hnet.data.validation import validation_batches


def config(**options: Any) -> DataConfig:
    return DataConfig(**{"train": "sample:train", "validation": "sample:validation", "sequence_length": 512} | options)


def totals(batches: list[Any]) -> tuple[int, int]:
    return sum(batch.num_targets for batch in batches), sum(batch.target_bytes for batch in batches)


def test_the_same_at_every_pass() -> None:
    batches = validation_batches(config())
    first = [batch.input_ids.tolist() for batch in batches]
    assert first == [batch.input_ids.tolist() for batch in batches]
    assert first[0][0] == 254


@pytest.mark.parametrize(("world_size", "windows"), [(1, 1), (2, 1), (3, 4), (4, 2), (200, 1)])
@pytest.mark.parametrize("packing", ["split", "whole"])
def test_ranks_share_all_of_it(world_size: int, windows: int, packing: str) -> None:
    settings = config(packing=packing)
    ranks = [
        list(validation_batches(settings, rank=rank, world_size=world_size, micro_batch_windows=windows))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    units = [batch.input_ids.tolist() for batch in together if batch.input_ids.tolist() != [254]]
    alone = list(validation_batches(settings))
    assert list(chain(*units)) == list(chain(*(batch.input_ids.tolist() for batch in alone)))
    assert totals(together) == totals(alone) == (47_597, 47_577)


@pytest.mark.parametrize("limit", [1, 2000, 2500, 40_000, 10**9])
def test_limited_to_the_beginning(limit: int) -> None:
    _, num_bytes = totals(list(validation_batches(config(validation_bytes=limit))))
    assert min(limit, 47_577) - 3 <= num_bytes <= min(limit, 47_577)


def test_tokens_stand_for_the_same_text(tokenizer_file: Path) -> None:
    num_tokens, num_bytes = totals(
        list(validation_batches(config(tokenizer=str(tokenizer_file), validation_bytes=9000)))
    )
    assert num_bytes == totals(list(validation_batches(config(validation_bytes=9000))))[1]
    assert num_tokens < num_bytes


def test_several_sources(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"A" * 100)
    (tmp_path / "b.txt").write_bytes(b"B" * 10)
    sources = [str(tmp_path / "a.txt"), {"path": str(tmp_path / "b.txt"), "weight": 3}]
    batches = list(validation_batches(config(validation=sources)))
    assert totals(batches) == (112, 110)


def test_none() -> None:
    assert list(validation_batches(config(validation=[]))) == []
