"""The share of a rank."""

from itertools import islice
from typing import Any

import pytest

from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.pack import SplitPacker
from hnet.data.shard import RankBatches, num_micro_batches
from hnet.data.tokenizer import ByteTokenizer
from hnet.errors import DataError

WINDOW, STEP, EMPTY = 16, 8, 7
TEXTS = [bytes([number]) * (1 + number * 13 % 50) for number in range(1, 40)]


def make(source: Any, rank: int = 0, world_size: int = 1, micro: int = 1) -> RankBatches:
    packer = SplitPacker(EncodedDocuments(IndexedDocuments(source, key=1), ByteTokenizer()), WINDOW)
    sizes = {"windows_per_step": STEP, "micro_batch_windows": micro, "empty_unit": EMPTY}
    return RankBatches(packer, rank=rank, world_size=world_size, **sizes)


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


@pytest.mark.parametrize(("world_size", "micro"), [(3, 8), (3, 1), (5, 1), (1, 3), (4, 3), (11, 2)])
def test_a_step_that_does_not_divide_is_dealt_out_whole(list_source: Any, world_size: int, micro: int) -> None:
    source = list_source(TEXTS)
    ranks = [make(source, rank, world_size, micro) for rank in range(world_size)]
    whole = make(source, 0, 1, STEP)
    for _ in range(3):
        expected = next(whole)
        batches = [next(rank) for _ in range(num_micro_batches(STEP, world_size, micro)) for rank in ranks]
        sizes = [batch.input_ids.numel() for batch in batches if batch.num_targets]
        assert max(sizes) <= micro * WINDOW and max(sizes) - min(sizes) <= WINDOW
        assert all(batch.input_ids.tolist() == [EMPTY] for batch in batches if not batch.num_targets)
        units = [unit for batch in batches if batch.num_targets for unit in batch.input_ids.tolist()]
        assert units == expected.input_ids.tolist()
        assert sum(batch.target_bytes for batch in batches) == expected.target_bytes
    assert all(rank.state_dict() == whole.state_dict() for rank in ranks)
