"""`hnet plan --simulate`: recorded chunk counts replayed on many ranks, with and without balancing.

A rank's time is the FLOPs of its windows; all ranks wait for the slowest, at every micro-batch under ZeRO-3 and FSDP2,
once a step otherwise. The lost share is 1 - (mean of the ranks) / (slowest). Windows go to ranks in the order of the
stream, by predicted cost, or by true cost (`oracle`: what balancing whole windows can reach at best). `exchanged` is by
predicted cost with the main stage's chunks then levelled, exactly, within groups of neighbouring ranks, which wait for
each other before and after it (`engine.balance: windows` and `engine.exchange_chunks`).
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

ORDERS = ("plain", "predicted", "exchanged", "oracle")
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
    exchange_group: int
    num_windows: int
    """Recorded, the predictor's first share included."""
    cost_variation: float
    """Standard deviation of a window's FLOPs over their mean."""
    prediction_error: float
    """Standard deviation of predicted less true FLOPs of a window over the mean of the true ones."""
    bytes_per_chunk: list[float]


def simulate(
    counts: ChunkCounts,
    model: ModelConfig,
    ranks: Sequence[int],
    *,
    windows_per_rank: int,
    micro_batches: int,
    exchange_group: int = 8,
) -> Simulation:
    """Replay `counts` on the costs of `model`, with `windows_per_rank` windows a step in `micro_batches`.

    Steps take the windows in their recorded order; where a step needs more than there are, they come again from the
    first. A window's predicted cost always comes from windows before it.

    Raises ConfigError if the model has another number of stages than the recording, or windows do not divide.
    """
    _check(counts, model, windows_per_rank, micro_batches)
    if any(number % exchange_group for number in ranks):
        raise ConfigError(f"groups of {exchange_group} ranks that exchange chunks do not divide {list(ranks)} ranks")
    by_stage = stage_flops(model, counts.units, counts.context)
    guess = stage_flops(model, _predict(counts), counts.context).sum(axis=1)
    used = slice(int(len(guess) * _LEARNING_SHARE), None)
    replay = _Replay(by_stage[used], guess[used], counts.units[used], windows_per_rank, micro_batches, exchange_group)
    true = replay.true.sum(axis=1)
    return Simulation(
        outcomes=[_outcome(number, replay) for number in ranks],
        windows_per_rank=windows_per_rank,
        micro_batches=micro_batches,
        exchange_group=exchange_group,
        num_windows=len(guess),
        cost_variation=float(true.std() / true.mean()),
        prediction_error=float((replay.predicted - true).std() / true.mean()),
        bytes_per_chunk=[float(replay.units[:, 0].sum() / column.sum()) for column in replay.units.T[1:]],
    )


@dataclass(frozen=True, slots=True)
class _Replay:
    """What is replayed of W windows."""

    true: NDArray[np.float64]
    """(W, S) FLOPs of every stage."""
    predicted: NDArray[np.float64]
    """(W,) FLOPs."""
    units: NDArray[np.int64]
    """(W, S)."""
    windows_per_rank: int
    micro_batches: int
    exchange_group: int


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


def _outcome(ranks: int, replay: _Replay) -> Outcome:
    size, num_windows = ranks * replay.windows_per_rank, len(replay.predicted)
    steps = max(_LEAST_STEPS, num_windows // size)
    syncs: tuple[Sync, ...] = get_args(Sync)
    slowdown = {sync: dict.fromkeys(ORDERS, 0.0) for sync in syncs}
    stages = {order: np.zeros(replay.units.shape[1]) for order in ORDERS if order != "exchanged"}
    for step in range(steps):
        rows = np.arange(step * size, (step + 1) * size) % num_windows
        by_stage = replay.true[rows]
        true = by_stage.sum(axis=1)
        for sync in syncs:
            dealt = {
                "plain": plain_order(size, ranks, replay.micro_batches),
                "predicted": assign(replay.predicted[rows], ranks, replay.micro_batches, sync=sync),
                "oracle": assign(true, ranks, replay.micro_batches, sync=sync),
            }
            for order, windows in dealt.items():
                slowdown[sync][order] += imbalance(true, windows, sync=sync) / steps
                if sync == "step":
                    units = replay.units[rows].T
                    stages[order] += [imbalance(column, windows, sync="step") / steps for column in units]
            exchanged = _exchanged(by_stage, dealt["predicted"], replay.exchange_group, sync)
            slowdown[sync]["exchanged"] += exchanged / steps
    lost = {sync: {order: 1 - 1 / value for order, value in values.items()} for sync, values in slowdown.items()}
    return Outcome(ranks, steps, lost, {order: values.tolist() for order, values in stages.items()})


def _exchanged(by_stage: NDArray[np.float64], windows: NDArray[np.int64], group: int, sync: Sync) -> float:
    """As `imbalance`, if groups of ranks level the main stage: in every micro-batch a group takes its slowest rank's
    time outside of the main stage, and the mean of its ranks' in it."""
    work = by_stage[windows].sum(axis=2)
    grouped = work.reshape(-1, group, *work.shape[1:])
    times = grouped[..., :-1].sum(axis=3).max(axis=1) + grouped[..., -1].mean(axis=1)
    slowest = times.sum(axis=1).max() if sync == "step" else times.max(axis=0).sum()
    return float(slowest / (work.sum() / work.shape[0]))
