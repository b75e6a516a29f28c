"""Whatever ends or stalls a rank, the others say who it was, at which step, and where."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import hnet
from hnet.distributed.bulletin import Place
from hnet.distributed.collectives import barrier
from hnet.distributed.group import local_group
from hnet.distributed.watchdog import EXIT_STALLED, Watchdog, describe
from hnet.testing.processes import process_context
from hnet.testing.ranks import run_distributed
from hnet.training.log import show_messages


def stuck_in_data(rank: int) -> None:
    if rank == 1:
        time.sleep(60)


def stopped(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)


def killed(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def out_of_disk(rank: int) -> None:
    if rank == 1:
        raise OSError(28, "No space left on device")


def work(rank: int, store: Path, messages: Path, trouble: Callable[[int], None], limit: float) -> None:
    """Two good steps, then `trouble` in the third."""
    descriptor = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 2)
    show_messages()
    with (
        local_group(rank, 2, store, timeout=60),
        Watchdog(rank, 2, limit, beat_seconds=0.2, silent_seconds=2) as watchdog,
    ):
        for step in (1, 2, 3):
            watchdog.entered("data", step)
            if step == 3:
                time.sleep(0.6)  # some signs of life
                trouble(rank)
            watchdog.entered("stage 1 encoder")
            barrier()


def run(tmp_path: Path, trouble: Callable[[int], None], limit: float) -> tuple[list[int | None], list[str]]:
    messages = [tmp_path / f"rank{rank}.txt" for rank in range(2)]
    processes = [
        process_context().Process(target=work, args=(rank, tmp_path / "store", messages[rank], trouble, limit))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    processes[0].join(40)
    if trouble is not out_of_disk:
        processes[1].kill()
    processes[1].join(20)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes, [path.read_text() for path in messages]


def test_a_rank_that_hangs_is_named_with_its_step_and_place(tmp_path: Path) -> None:
    codes, messages = run(tmp_path, stuck_in_data, 4)
    # Both give up at about the same time; whoever is first breaks the other's collective.
    assert EXIT_STALLED in codes
    assert "no progress for" in "".join(messages)
    for seen in messages:
        if "no progress" in seen:
            assert "rank 1 on" in seen and "(step 3, last entered: data)" in seen


def test_a_stopped_process_is_noticed_before_the_limit(tmp_path: Path) -> None:
    codes, (seen, _) = run(tmp_path, stopped, 1000)
    assert codes[0] == EXIT_STALLED
    assert "no sign of life of rank 1 on" in seen and "last entered: data" in seen


def test_a_killed_rank_is_named_by_the_one_whose_collective_broke(tmp_path: Path) -> None:
    codes, (seen, _) = run(tmp_path, killed, 1000)
    assert codes == [1, -signal.SIGKILL]
    assert "rank 0 on" in seen and "RuntimeError" in seen
    assert "no sign of life of rank 1 on" in seen and "(step 3, last entered: data)" in seen


def test_a_rank_that_fails_says_so_and_the_others_repeat_it(tmp_path: Path) -> None:
    codes, (seen, own) = run(tmp_path, out_of_disk, 1000)
    assert codes == [1, 1]
    assert "rank 1 on" in own and "failed: OSError: [Errno 28] No space left on device" in own
    assert "rank 1 on" in seen and "failed: OSError: [Errno 28] No space left on device" in seen


def report_alone(rank: int) -> list[bool]:
    """Two attempts on one store; in the first rank 1 fails, in the second it is done before rank 0."""
    seen = []
    with Watchdog(rank, 2, 60, beat_seconds=0.2) as watchdog:
        if rank == 1:
            watchdog._say_why(watchdog._bulletin, OSError("the first attempt"))  # type: ignore[arg-type]
        time.sleep(1)
        seen.append("the first attempt" in watchdog._failures())
    barrier()
    with Watchdog(rank, 2, 60, beat_seconds=0.2, silent_seconds=1) as watchdog:
        seen.append("the first attempt" in watchdog._failures())
        if rank == 0:
            time.sleep(5)
    barrier()
    return seen


def test_a_rank_that_is_done_is_not_dead_and_an_attempt_does_not_hear_the_one_before() -> None:
    assert run_distributed(report_alone, 2) == [[True, False], [True, False]]


def test_places_of_a_model_are_those_of_its_stages() -> None:
    model = hnet.build("hnet_tiny")
    with Watchdog(0, 1, 60) as watchdog:
        places: list[str] = []
        watchdog.observe(model)
        entered = watchdog.entered

        def record(where: str, step: int | None = None) -> None:
            places.append(where)
            entered(where, step)

        watchdog.entered = record  # type: ignore[method-assign]
        model(torch.arange(12), cu_seqlens=torch.tensor([0, 12], dtype=torch.int32))
    assert places == [
        "embedding", "embedding_addition", "stage 0 encoder", "stage 0 router", "stage 0 residual", "stage 0 pool",
        "stage 1 main", "stage 0 unpool", "stage 0 decoder", "head",
    ]  # fmt: skip
    assert watchdog.place.count == len(places) and watchdog.place.where == "head"


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([4, 4, 4], "all ranks are alive and at the same place"),
        ([4, 3, 4], "held up by rank 1 on n1 (step 7, last entered: data): the other 2 ranks"),
        ([4, 4], "never heard of ranks [2]"),
    ],
)
def test_descriptions(counts: list[int], expected: str) -> None:
    place = Place(0, "n0", step=7, where="data")
    places = [replace(place, rank=rank, host=f"n{rank}", count=count) for rank, count in enumerate(counts)]
    assert expected in describe(places, 3)
