"""A run that goes on with another number of ranks sees every byte of an epoch once."""

import json
from collections import Counter
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet.data.document import State
from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.pack import make_packer
from hnet.data.shard import RankBatches, num_micro_batches
from hnet.data.tokenizer import ByteTokenizer
from hnet.segmentation.rule import EOS

WINDOWS_PER_STEP = 10
TEXTS = [bytes([number]) * (1 + number * 37 % 60) for number in range(1, 150)]
Packing = Literal["split", "whole"]


def open_rank(
    source: Any, packing: Packing, rank: int, world_size: int, micro: int, state: State | None
) -> RankBatches:
    """One rank's share of one epoch. Whole packing cuts no document here, so that every byte is a target."""
    documents = EncodedDocuments(IndexedDocuments(source, key=3, epochs=1), ByteTokenizer())
    packer = make_packer(documents, 16 if packing == "split" else 64, packing)
    sizes = {"windows_per_step": WINDOWS_PER_STEP, "micro_batch_windows": micro, "empty_unit": 0}
    batches = RankBatches(packer, rank=rank, world_size=world_size, **sizes)
    if state is not None:
        batches.load_state_dict(json.loads(json.dumps(state)))
    return batches


@pytest.mark.parametrize("packing", ["split", "whole"])
@settings(max_examples=20)
@given(layouts=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1)), max_size=3))
def test_every_byte_of_an_epoch_is_a_target_once(
    list_source: Any, packing: Packing, layouts: list[tuple[int, int, int]]
) -> None:
    """`layouts`: numbers of ranks, windows of a micro-batch, and steps. What is left then, one rank takes."""
    source, state = list_source(TEXTS), None
    targets: Counter[int] = Counter()
    for world_size, micro, num_steps in [(4, 1, 2), (3, 2, 1), *layouts]:
        ranks = [open_rank(source, packing, rank, world_size, micro, state) for rank in range(world_size)]
        for batches in ranks:
            for _ in range(num_steps * num_micro_batches(WINDOWS_PER_STEP, world_size, micro)):
                targets.update(next(batches).labels.tolist())
        states = [batches.state_dict() for batches in ranks]
        assert all(other == states[0] for other in states)
        state = states[0]
    for batch in open_rank(source, packing, 0, 1, 1, state):
        targets.update(batch.labels.tolist())
    seen = {number: count for number, count in targets.items() if 0 <= number < EOS}
    assert seen == Counter(byte for text in TEXTS for byte in text)
