"""Which rank and micro-batch takes which window, so that ranks do equal work. Plain numpy: the same on every rank.

Chunk counts differ between windows, and with them the work of the inner stages. The windows of one optimizer step are
known before it: they are dealt out so that every rank gets as many windows as before, but the slowest rank less work.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet.errors import ConfigError

Sync = Literal["micro_batch", "step"]
"""Where ranks wait for each other: at every micro-batch (ZeRO-3, FSDP: weights are gathered) or once a step."""

_ROUNDS = 40
_PATIENCE = 3
_WIDEST_SWAP = 64
"""Windows of a bin above which swaps are not tried: so many windows are level already, and pairs grow as a square."""


def plain_order(num_windows: int, num_ranks: int, num_micro_batches: int) -> NDArray[np.int64]:
    """The assignment without balancing: (num_ranks, num_micro_batches, k) window indices in stream order.

    Micro-batch j of rank r takes the k windows from (j * num_ranks + r) * k.
    Raises ConfigError if the windows do not divide evenly.
    """
    if num_windows < 1 or num_windows % (num_ranks * num_micro_batches):
        raise ConfigError(
            f"{num_windows} windows do not divide into {num_micro_batches} micro-batches on {num_ranks} ranks; "
            f"give a multiple of {num_ranks * num_micro_batches}"
        )
    return np.arange(num_windows).reshape(num_micro_batches, num_ranks, -1).transpose(1, 0, 2)


def assign(
    costs: NDArray[np.float64], num_ranks: int, num_micro_batches: int, *, sync: Sync = "micro_batch"
) -> NDArray[np.int64]:
    """Deal windows out so that the time of the slowest ranks is least, with equally many windows everywhere.

    Heaviest first to the lightest bin that is not full, then swaps between heavy and light bins. Since ranks wait for
    each other within a micro-batch alone, bins of like weight share one; so do, where that is better, windows of like
    weight (few windows a bin cannot make up for one that is very heavy). Never worse than `plain_order` on `costs`.
    O(W log W); no randomness, and ties go to the earlier window.

    Args:
        costs: (W,) work of each window in any unit, finite and not negative.
        sync: `micro_batch` lowers the sum over micro-batches of the largest rank's cost, `step` the largest rank's sum.
    Returns:
        (num_ranks, num_micro_batches, W / (num_ranks * num_micro_batches)) indices into `costs`, each once.
    Raises:
        ConfigError: the windows do not divide evenly, or a cost is negative or not finite.
    """
    costs = np.asarray(costs, dtype=np.float64)
    plain = plain_order(costs.size, num_ranks, num_micro_batches)
    if not (np.isfinite(costs).all() and (costs >= 0).all()):
        raise ConfigError("costs of windows must be finite and not negative")
    if sync == "step":
        # Within a rank the bins are its micro-batches: level ones need the least memory.
        ranks = _level(costs, num_ranks)
        candidates = [np.stack([windows[_level(costs[windows], num_micro_batches)] for windows in ranks])]
    else:
        everywhere = _by_weight(costs, _level(costs, num_ranks * num_micro_batches))
        heavy_first = np.argsort(-costs, kind="stable").reshape(num_micro_batches, -1)
        apart = np.concatenate([_by_weight(costs, block[_level(costs[block], num_ranks)]) for block in heavy_first])
        shape = (num_micro_batches, num_ranks, -1)
        candidates = [_snake(cells.reshape(shape)).transpose(1, 0, 2) for cells in (everywhere, apart)]
    return min([plain, *candidates], key=lambda candidate: imbalance(costs, candidate, sync=sync))


def imbalance(costs: NDArray[np.float64], assignment: NDArray[np.int64], *, sync: Sync = "micro_batch") -> float:
    """Time of a step over its time if ranks did equal work: at least 1.

    Summed over micro-batches, or of the whole step: the largest rank's cost over the mean of all ranks.
    1 - 1 / imbalance is the share of time that ranks spend waiting for the slowest. 1.0 where all costs are 0.
    """
    work = np.asarray(costs, dtype=np.float64)[assignment].sum(axis=2)
    mean = work.sum() / work.shape[0]
    slowest = work.sum(axis=1).max() if sync == "step" else work.max(axis=0).sum()
    return float(slowest / mean) if mean > 0 else 1.0


def _level(costs: NDArray[np.float64], num_bins: int) -> NDArray[np.int64]:
    """(num_bins, W / num_bins) indices: equally many in every bin, sums as level as greedy and swaps make them."""
    rounds = np.argsort(-costs, kind="stable").reshape(-1, num_bins)
    sums = np.zeros(num_bins)
    bins = np.empty((num_bins, rounds.shape[0]), dtype=np.int64)
    for column, windows in enumerate(rounds):
        light_first = np.argsort(sums, kind="stable")
        bins[light_first, column] = windows
        sums[light_first] += costs[windows]
    if num_bins > 1 and 1 < bins.shape[1] <= _WIDEST_SWAP:
        _swap(costs, bins)
    return bins


def _swap(costs: NDArray[np.float64], bins: NDArray[np.int64]) -> None:
    """In place: heavy bins meet light ones and exchange the two windows that bring them closest.

    The i-th heaviest meets the i-th lightest, then the one after it, and so on, until nothing improves.
    """
    half, width = bins.shape[0] // 2, bins.shape[1]
    sums = costs[bins].sum(axis=1)
    idle = 0
    for turn in range(_ROUNDS):
        order = np.argsort(-sums, kind="stable")
        heavy, light = order[:half], np.roll(order[::-1][:half], -turn)
        gap = sums[heavy] - sums[light]
        moved = costs[bins[heavy]][:, :, None] - costs[bins[light]][:, None, :]
        left = np.abs(gap[:, None] - 2 * moved.reshape(half, -1))
        best = left.argmin(axis=1)
        better = left[np.arange(half), best] < gap * (1 - 1e-9)
        idle = 0 if better.any() else idle + 1
        if idle > _PATIENCE:
            return
        heavy, light = heavy[better], light[better]
        give, take = np.divmod(best[better], width)
        bins[heavy, give], bins[light, take] = bins[light, take], bins[heavy, give]
        sums = costs[bins].sum(axis=1)


def _by_weight(costs: NDArray[np.float64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of `cells`, heaviest first."""
    return cells[np.argsort(-costs[cells].sum(axis=1), kind="stable")]


def _snake(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, R, k) with every other micro-batch in reverse, so that no rank is always the heaviest."""
    cells[1::2] = cells[1::2, ::-1].copy()
    return cells
