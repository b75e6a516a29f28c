"""`hnet plan --simulate`: recorded chunk counts replayed on many ranks, with and without balancing.

A rank's time is the FLOPs of its windows; all ranks wait for the slowest, at every micro-batch under ZeRO-3 and FSDP2,
once a step otherwise. The lost share is 1 - (mean of the ranks) / (slowest). Windows go to ranks in the order of the
stream, by predicted cost, or by true cost (`oracle`: what balancing whole windows can reach at best).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from hnet.distributed.assignment import Sync, assign, imbalance, plain_order
from hnet.distributed.chunk_counts import ChunkCounts
from hnet.distributed.chunk_predictor import ChunkPredictor
from hnet.errors import ConfigError
from hnet.model.accounting import stage_flops
from hnet.model.config import ModelConfig

ORDERS = ("plain", "predicted", "oracle")
_LEARNING_STEPS = 16
"""Steps into which the recording is cut for the predictor, which sees each step's counts after it."""
_LEARNING_SHARE = 0.25
"""Of the recording, from its beginning, that only the predictor sees."""
_LEAST_STEPS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """One number of ranks. Shares of time lost to the slowest rank, by order of windows, averaged over steps."""

    ranks: int
    steps: int
    lost: dict[Sync, dict[str, float]]
    stage_imbalance: dict[str, list[float]]
    """By order: of every stage, its units on the rank that has most over the mean, over whole steps."""


@dataclass(frozen=True, slots=True)
class Simulation:
    outcomes: list[Outcome]
    windows_per_rank: int
    micro_batches: int
    num_windows: int
    """Recorded, the predictor's first share included."""
    cost_variation: float
    """Standard deviation of a window's FLOPs over their mean."""
    prediction_error: float
    """Standard deviation of predicted over true FLOPs of a window."""
    bytes_per_chunk: list[float]


def simulate(
    counts: ChunkCounts, model: ModelConfig, ranks: Sequence[int], *, windows_per_rank: int, micro_batches: int
) -> Simulation:
    """Replay `counts` on the costs of `model`, with `windows_per_rank` windows a step in `micro_batches`.

    Steps take the windows in their recorded order; where a step needs more than there are, they come again from the
    first. A window's predicted cost always comes from windows before it.

    Raises ConfigError if the model has another number of stages than the recording, or windows do not divide.
    """
    _check(counts, model, windows_per_rank, micro_batches)
    true = stage_flops(model, counts.units, counts.context).sum(axis=1)
    predicted_units = _predict(counts)
    predicted = stage_flops(model, predicted_units, counts.context).sum(axis=1)
    used = slice(int(len(true) * _LEARNING_SHARE), None)
    costs = {"plain": np.zeros(0), "predicted": predicted[used], "oracle": true[used]}
    units = counts.units[used]
    return Simulation(
        outcomes=[_outcome(number, costs, units, windows_per_rank, micro_batches) for number in ranks],
        windows_per_rank=windows_per_rank,
        micro_batches=micro_batches,
        num_windows=len(true),
        cost_variation=float(true[used].std() / true[used].mean()),
        prediction_error=float((predicted[used] / true[used]).std()),
        bytes_per_chunk=[float(units[:, 0].sum() / column.sum()) for column in units.T[1:]],
    )


def _check(counts: ChunkCounts, model: ModelConfig, windows_per_rank: int, micro_batches: int) -> None:
    recorded = counts.units.shape[1]
    if recorded != len(model.stages):
        raise ConfigError(
            f"the recording is of a model of {recorded} stages, the run's has {len(model.stages)}; "
            "give a run whose model has as many, such as model=hnet_2stage_XL for 3"
        )
    if windows_per_rank % micro_batches:
        raise ConfigError(
            f"{windows_per_rank} windows per rank do not divide into {micro_batches} micro-batches; give a divisor"
        )
    if len(counts.units) < 2 * _LEARNING_STEPS:
        raise ConfigError(f"the recording has {len(counts.units)} windows; record at least {2 * _LEARNING_STEPS}")


def _predict(counts: ChunkCounts) -> NDArray[np.float64]:
    """(W, S) units of every stage as the predictor guessed them before it saw them."""
    predictor = ChunkPredictor(counts.units.shape[1] - 1)
    predicted = counts.units.astype(np.float64)
    for rows in np.array_split(np.arange(len(predicted)), _LEARNING_STEPS):
        predicted[rows, 1:] = predictor.predict(counts.features[rows])
        predictor.update(counts.features[rows], counts.units[rows, 1:])
    return predicted


def _outcome(
    ranks: int,
    costs: dict[str, NDArray[np.float64]],
    units: NDArray[np.int64],
    windows_per_rank: int,
    micro_batches: int,
) -> Outcome:
    size, num_windows = ranks * windows_per_rank, len(units)
    steps = max(_LEAST_STEPS, num_windows // size)
    syncs: tuple[Sync, ...] = get_args(Sync)
    slowdown = {sync: dict.fromkeys(ORDERS, 0.0) for sync in syncs}
    stages = {order: np.zeros(units.shape[1]) for order in ORDERS}
    for step in range(steps):
        rows = np.arange(step * size, (step + 1) * size) % num_windows
        for sync in syncs:
            for order in ORDERS:
                if order == "plain":
                    order_of = plain_order(size, ranks, micro_batches)
                else:
                    order_of = assign(costs[order][rows], ranks, micro_batches, sync=sync)
                slowdown[sync][order] += imbalance(costs["oracle"][rows], order_of, sync=sync) / steps
                if sync == "step":
                    stages[order] += [imbalance(column, order_of, sync="step") / steps for column in units[rows].T]
    lost = {sync: {order: 1 - 1 / value for order, value in values.items()} for sync, values in slowdown.items()}
    return Outcome(ranks, steps, lost, {order: values.tolist() for order, values in stages.items()})
