"""`python -m hnet.distributed.bandwidth` on every rank of a job: how fast the ranks talk, as one line of JSON.

The launcher's preflight starts it as it starts the job: if this does not run, the job would not.
"""

import json
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from hnet.distributed import environment

_ROUNDS = 3
_BYTES = {"cuda": 64 << 20, "cpu": 4 << 20}
_SECONDS = 60


def main() -> int:
    """Measure with all other ranks; rank 0 prints the result."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", environment.local_rank()) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    environment.set_defaults(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=_SECONDS))
    try:
        result = measure(device)
        if dist.get_rank() == 0:
            print(json.dumps(result), flush=True)
    finally:
        dist.destroy_process_group()
    return 0


def measure(device: torch.device) -> dict[str, object]:
    """`ranks`, their number; `all_reduce`, its bus bandwidth: 2 (n - 1) / n of the buffer per second; `pairs` of
    neighbouring hosts by their names, one way between their first ranks. GB/s (1e9 bytes). Every rank must call."""
    data = torch.ones(_BYTES[device.type] // 4, device=device)
    num_ranks = dist.get_world_size()
    seconds = _fastest(lambda: dist.all_reduce(data), device)
    moved = 2 * (num_ranks - 1) / num_ranks * data.numel() * 4
    return {"ranks": num_ranks, "all_reduce": moved / seconds / 1e9, "pairs": _pairs(data, device)}


def _pairs(data: Tensor, device: torch.device) -> dict[str, float]:
    """Every host's first rank with that of the next host, around the ring; at most one pair of a host at a time."""
    hosts: list[tuple[str, int]] = [("", 0)] * dist.get_world_size()
    dist.all_gather_object(hosts, (socket.gethostname(), environment.local_rank()))
    leaders = [rank for rank, (_, local_rank) in enumerate(hosts) if local_rank == 0]
    count = len(leaders)
    edges = [(i, (i + 1) % count) for i in range(count if count > 2 else count - 1)]
    measured: dict[str, float] = {}
    for turn in range(3):
        for i, j in edges:
            # The last edge of an odd ring meets both kinds of others.
            kind = 2 if count % 2 and i == count - 1 else i % 2
            if kind == turn and dist.get_rank() in (leaders[i], leaders[j]):
                first, other = leaders[i], leaders[j]
                speed = _there_and_back(data, device, dist.get_rank() == first, other, first)
                measured[f"{hosts[first][0]} - {hosts[other][0]}"] = speed
        dist.barrier()
    everything: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everything, measured)
    return {pair: speed for found in everything for pair, speed in found.items()}


def _there_and_back(data: Tensor, device: torch.device, is_first: bool, other: int, first: int) -> float:
    """GB/s one way between two ranks."""

    def exchange() -> None:
        for sends in (is_first, not is_first):
            peer = other if is_first else first
            dist.send(data, peer) if sends else dist.recv(data, peer)

    return 2 * data.numel() * 4 / _fastest(exchange, device) / 1e9


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few rounds, after one that opens connections."""
    best = float("inf")
    for number in range(_ROUNDS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number:
            best = min(best, time.perf_counter() - began)
    return best


if __name__ == "__main__":
    sys.exit(main())
