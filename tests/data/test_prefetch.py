"""The thread that works ahead changes nothing."""

import gc
import threading
import time
from typing import Any

import pytest

from hnet.data.batch import Batch
from hnet.data.collate import empty_batch
from hnet.data.prefetch import Prefetched


class Numbers:
    """Batches of one unit that counts; fails at `bad` and ends at `end`."""

    def __init__(self, bad: int | None = None, end: int | None = None) -> None:
        self.number, self.bad, self.end = 0, bad, end

    def __next__(self) -> Batch:
        if self.number == self.end:
            raise StopIteration
        self.number += 1
        if self.number == self.bad:
            raise OSError("disk gone")
        return empty_batch(self.number)

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hnet-prefetch"]


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_resumes_anywhere(assert_resumes: Any, depth: int) -> None:
    stages = []

    def make() -> Prefetched:
        stages.append(Prefetched(Numbers(), depth))
        return stages[-1]

    assert_resumes(make, 12)
    for stage in stages:
        stage.close()


def test_works_ahead_but_its_state_does_not() -> None:
    source = Numbers()
    batches = Prefetched(source, 3)
    assert next(batches).input_ids.tolist() == [1]
    wait_until(lambda: source.number == 5)  # three ready, one in hand
    assert batches.state_dict() == {"number": 1}
    batches.close()
    assert batches.state_dict() == {"number": 1}
    assert next(batches).input_ids.tolist() == [2]
    batches.close()
    batches.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_where_its_batch_would_have(depth: int) -> None:
    batches = Prefetched(Numbers(bad=3), depth)
    assert [next(batches).input_ids.item() for _ in range(2)] == [1, 2]
    with pytest.raises(OSError, match="disk gone"):
        next(batches)
    assert batches.state_dict() == {"number": 2}
    batches.close()


@pytest.mark.parametrize("depth", [0, 2])
def test_the_end(depth: int) -> None:
    batches = Prefetched(Numbers(end=4), depth)
    assert len(list(batches)) == 4
    assert next(batches, None) is None
    batches.close()


def test_a_forgotten_consumer_ends_its_thread() -> None:
    before = len(prefetch_threads())
    batches = Prefetched(Numbers(), 2)
    next(batches)
    assert len(prefetch_threads()) == before + 1
    del batches
    gc.collect()
    wait_until(lambda: len(prefetch_threads()) == before)
