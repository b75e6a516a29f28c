"""`run_distributed`: a function on several ranks, as real processes that talk over gloo."""

import io
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from hnet.distributed.group import local_group
from hnet.testing.processes import process_context


def run_distributed(
    function: Callable[..., Any], world_size: int, *arguments: Any, timeout: float = 300.0
) -> list[Any]:
    """Call `function(rank, *arguments)` in `world_size` processes of one gloo group; the results in rank order.

    `function` stands at the top level of a module. Results are tensors, numbers, strings and containers of these.
    Raises RuntimeError with the traceback of the first rank that fails, or if `timeout` seconds pass; no process
    outlives the call.
    """
    context = process_context()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        receivers, processes = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(
                target=_work, args=(sender, function, rank, world_size, store, timeout, arguments), daemon=True
            )
            process.start()
            sender.close()
            receivers.append(receiver)
            processes.append(process)
        try:
            return _collect(receivers, time.monotonic() + timeout)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(receivers: list[Connection], deadline: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(receivers):
        waiting = {receiver: rank for rank, receiver in enumerate(receivers) if rank not in results}
        ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            raise RuntimeError(f"ranks {sorted(waiting.values())} did not finish in time")
        failures = []
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting[receiver]
            try:
                succeeded, results[rank] = torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=True)
            except EOFError:
                succeeded, results[rank] = False, "it died without a word"
            if not succeeded:
                failures.append(f"rank {rank} failed:\n{results[rank]}")
        if failures:
            raise RuntimeError("\n".join(failures))
    return [results[rank] for rank in range(len(receivers))]


def _work(
    sender: Connection,
    function: Callable[..., Any],
    rank: int,
    world_size: int,
    store: Path,
    timeout: float,
    arguments: tuple[Any, ...],
) -> None:
    with local_group(rank, world_size, store, timeout=timeout):
        try:
            message = (True, function(rank, *arguments))
        except BaseException:
            message = (False, traceback.format_exc())
        # Before the group is left: whoever waits for this rank fails only then, and its failure is not the cause.
        buffer = io.BytesIO()
        torch.save(message, buffer)
        sender.send_bytes(buffer.getvalue())
