"""The share of a rank."""

from itertools import islice
from typing import Any

import pytest

from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.pack import SplitPacker
from hnet.data.shard import RankBatches
from hnet.data.tokenizer import ByteTokenizer
from hnet.errors import ConfigError, DataError

WINDOW, STEP = 16, 8
TEXTS = [bytes([number]) * (1 + number * 13 % 50) for number in range(1, 40)]


def make(source: Any, rank: int = 0, world_size: int = 1, micro: int = 1) -> RankBatches:
    packer = SplitPacker(EncodedDocuments(IndexedDocuments(source, key=1), ByteTokenizer()), WINDOW)
    return RankBatches(packer, rank=rank, world_size=world_size, windows_per_step=STEP, micro_batch_windows=micro)


def steps(source: Any, world_size: int, micro: int, number: int) -> list[list[int]]:
    """The units of each step, put together from all ranks in the order of the global stream."""
    ranks = [make(source, rank, world_size, micro) for rank in range(world_size)]
    return [
        [unit for _ in range(STEP // (world_size * micro)) for rank in ranks for unit in next(rank).input_ids.tolist()]
        for _ in range(number)
    ]


@pytest.mark.parametrize(("world_size", "micro"), [(1, 2), (1, 8), (2, 1), (2, 4), (4, 1), (4, 2), (8, 1)])
def test_the_global_stream_does_not_depend_on_ranks(list_source: Any, world_size: int, micro: int) -> None:
    source = list_source(TEXTS)
    assert steps(source, world_size, micro, 5) == steps(source, 1, 1, 5)


@pytest.mark.parametrize(("rank", "world_size", "micro"), [(0, 1, 2), (0, 2, 1), (1, 2, 2), (3, 4, 1), (2, 4, 2)])
def test_resumes_anywhere(list_source: Any, assert_resumes: Any, rank: int, world_size: int, micro: int) -> None:
    assert_resumes(lambda: make(list_source(TEXTS), rank, world_size, micro), 20)


def test_between_steps_the_state_is_the_same_everywhere(list_source: Any) -> None:
    source = list_source(TEXTS)
    layouts = [(0, 1, 8), (0, 1, 1), (0, 4, 1), (3, 4, 2), (1, 2, 2)]
    states = []
    for rank, world_size, micro in layouts:
        stage = make(source, rank, world_size, micro)
        for _ in islice(stage, 3 * STEP // (world_size * micro)):
            pass
        states.append(stage.state_dict())
    assert all(state == states[0] for state in states)
    continued = make(source, 0, 1, 8)
    continued.load_state_dict(states[3])
    assert next(continued).input_ids.tolist() == steps(source, 1, 1, 4)[3]


def test_inside_a_step_a_state_belongs_to_its_rank(list_source: Any) -> None:
    stage = make(list_source(TEXTS), 0, 2, 1)
    next(stage)
    with pytest.raises(DataError, match="saved inside a step"):
        make(list_source(TEXTS), 1, 2, 1).load_state_dict(stage.state_dict())


def test_other_ranks_text_is_not_read(list_source: Any) -> None:
    source = list_source([bytes([number]) * (WINDOW - 2) for number in range(100)])
    for _ in islice(make(source, 1, 4, 1), 12):
        pass
    assert len(source.read_indexes) == 12


def test_uneven_steps(list_source: Any) -> None:
    with pytest.raises(
        ConfigError, match="a step of 8 windows does not divide into micro-batches of 3 windows on 1 rank"
    ):
        make(list_source(TEXTS), micro=3)
