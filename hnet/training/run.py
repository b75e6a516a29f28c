"""`Run`: everything that one training run is made of, put together in the order that the parts need each other."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from hnet.config import save_config
from hnet.data import shard
from hnet.data.stream import TrainStream, build_stream
from hnet.data.tokenizer import check_vocab_size, load_tokenizer
from hnet.distributed.assignment import Sync
from hnet.distributed.balance import WindowBalance
from hnet.distributed.chunk_exchange import ChunkExchange
from hnet.distributed.sequence_parallel import open_sequence_group
from hnet.distributed.watchdog import Watchdog
from hnet.errors import ConfigError
from hnet.model.accounting import document_flops, flops_per_byte
from hnet.model.loading import CONFIG
from hnet.model.stage import Stage
from hnet.training import checkpoints
from hnet.training.building import prepare
from hnet.training.callbacks.base import Callback, Row
from hnet.training.checkpoint_folder import CheckpointFolder
from hnet.training.checkpoint_writer import CheckpointWriter
from hnet.training.config import RunConfig
from hnet.training.engine import Engine, open_engine
from hnet.training.state import TrainState
from hnet.training.step import StepResult, TrainStep
from hnet.training.stop_signal import StopSignal
from hnet.training.tasks import build_task

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Run:
    """The parts of a run, and what its callbacks share."""

    config: RunConfig
    engine: Engine
    stream: TrainStream
    train_step: TrainStep
    checkpoints: CheckpointFolder
    writer: CheckpointWriter
    state: TrainState
    stop: StopSignal
    watchdog: Watchdog
    callbacks: list[Callback] = field(default_factory=list)
    extras: Row = field(default_factory=dict)
    """Fields that callbacks add to the row of the current step; with any, the step is logged."""
    step_seconds: float = 0.0
    """Wall time of the last step, waiting for its data included."""

    @property
    def output_dir(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def is_finished(self) -> bool:
        return self.state.step >= self.config.training.steps

    def next_step(self) -> StepResult:
        """Run one step on the next micro-batches of this rank."""
        began = time.perf_counter()
        self.watchdog.entered("data", self.state.step + 1)
        batches = list(islice(self.stream, num_micro_batches(self.config, self.engine.data_world_size)))
        result = self.train_step(batches, self.state.step + 1, stop_requested=self.stop.requested)
        self.state.advance(result)
        self.step_seconds = time.perf_counter() - began
        return result

    def log(self, row: Row) -> None:
        """Hand a finished row to every callback."""
        for callback in self.callbacks:
            callback.on_row(self, row)

    def save(self) -> None:
        """Write a checkpoint of the current state, or begin to in the background; every rank must call."""
        self.watchdog.entered("checkpoint")
        self.writer.save(self.state, self.stream, self.train_step.balance)


@contextlib.contextmanager
def open_run(config: RunConfig) -> Iterator[Run]:
    """Build a run, or continue it from the checkpoint that `output_dir` holds.

    Raises ConfigError if the model is not that of the checkpoint or of the tokenizer, or if `output_dir` cannot be
    written; CheckpointError if the checkpoint is damaged; DataError if the data cannot be read.
    """
    check_vocab_size(load_tokenizer(config.data.tokenizer), config.model.vocab_size)
    engine = open_engine(config)
    folder = CheckpointFolder(Path(config.output_dir) / "checkpoints")
    with contextlib.ExitStack() as stack:
        limit = 60 * config.engine.watchdog_minutes
        watchdog = stack.enter_context(Watchdog(engine.rank, engine.world_size, limit))
        checkpoint = checkpoints.checkpoint_to_resume(folder, engine)
        if checkpoint is not None:
            checkpoints.check_model_fits(checkpoint, config)
        stream = stack.enter_context(open_stream(config, engine))
        prepare(config, engine, is_new=checkpoint is None)
        state = TrainState() if checkpoint is None else checkpoints.load_checkpoint(checkpoint, engine, stream)
        if engine.is_main:
            _announce(config, engine, checkpoint)
        watchdog.observe(engine.model)
        stop = stack.enter_context(StopSignal())
        writer = CheckpointWriter(folder, config, engine)
        train_step = build_step(config, engine, watchdog.entered)
        if train_step.balance is not None and checkpoint is not None:
            checkpoints.load_balance(checkpoint, train_step.balance)
        yield Run(config, engine, stream, train_step, folder, writer, state, stop, watchdog)
    # Not reached after an error: ranks that have failed apart cannot meet to say goodbye.
    engine.close()


def open_stream(config: RunConfig, engine: Engine) -> TrainStream:
    """This rank's training data."""
    windows_per_step, micro_batch_windows = batch_windows(config, engine.data_world_size)
    return build_stream(
        config.data,
        seed=config.training.seed,
        rank=engine.data_rank,
        world_size=engine.data_world_size,
        windows_per_step=windows_per_step,
        micro_batch_windows=micro_batch_windows,
        task=build_task(config, "train"),
    )


def build_step(config: RunConfig, engine: Engine, entered: Callable[[str], None] = lambda where: None) -> TrainStep:
    """The step of a prepared engine, with the balance that `engine` asks for. Raises ConfigError if it cannot be."""
    exchange_chunks(config, engine)
    return TrainStep(config, engine, entered, build_balance(config, engine))


def build_balance(config: RunConfig, engine: Engine) -> WindowBalance | None:
    """What `engine.balance` asks for; nothing where there is one process.

    Raises ConfigError if the windows of a step do not divide over the ranks.
    """
    if config.engine.balance == "off" or engine.world_size == 1:
        return None
    per_step, _ = batch_windows(config, engine.world_size)
    shares = engine.world_size * num_micro_batches(config, engine.world_size)
    if per_step % shares:
        raise ConfigError(
            f"engine.balance: {config.engine.balance} deals out equally many windows, and the {per_step} of "
            f"training.global_batch_bytes do not divide over {shares} micro-batches; make it a multiple of "
            f"{shares * config.data.sequence_length}"
        )
    sync: Sync = "micro_batch" if engine.shards_parameters else "step"

    def cost(units: Sequence[float], context: float) -> float:
        return units[0] * flops_per_byte(config.model, [count / units[0] for count in units], context)

    return WindowBalance(
        cost, len(config.model.stages), rank=engine.rank, world_size=engine.world_size, sync=sync, device=engine.device
    )


def exchange_chunks(config: RunConfig, engine: Engine) -> None:
    """What `engine.exchange_chunks` asks for. Raises ConfigError if it does not divide the number of ranks."""
    size = config.engine.exchange_chunks
    if size == 1 or engine.world_size == 1:
        return
    if engine.world_size % size:
        raise ConfigError(
            f"engine.exchange_chunks {size} does not divide the {engine.world_size} processes; give a divisor"
        )
    group = open_sequence_group(size, timeout_minutes=config.engine.watchdog_minutes + 1)
    stage = engine.model.stage
    while isinstance(stage, Stage) and not stage.config.is_innermost:
        stage = stage.inner
    assert group is not None and isinstance(stage, Stage)
    ChunkExchange(group, partial(document_flops, stage.config)).attach(stage.main)


def batch_windows(config: RunConfig, world_size: int) -> tuple[int, int]:
    """Windows per step over all ranks, and the most windows of a micro-batch."""
    training, window = config.training, config.data.sequence_length
    per_step = training.global_batch_bytes // window
    per_rank = -(-per_step // world_size)
    return per_step, min(per_rank, (training.micro_batch_bytes or training.global_batch_bytes) // window)


def num_micro_batches(config: RunConfig, world_size: int) -> int:
    """Micro-batches of every rank per step."""
    per_step, per_micro_batch = batch_windows(config, world_size)
    return shard.num_micro_batches(per_step, world_size, per_micro_batch)


def _announce(config: RunConfig, engine: Engine, checkpoint: Path | None) -> None:
    logger.info("%s", engine.describe())
    per_step, _ = batch_windows(config, engine.data_world_size)
    shares = engine.data_world_size * num_micro_batches(config, engine.data_world_size)
    if per_step % shares:
        logger.warning(
            "training.global_batch_bytes is %d windows of data.sequence_length: %d micro-batches take %d to %d each, "
            "and the smaller ones wait for the larger; a multiple of %d bytes would share evenly",
            per_step, shares, per_step // shares, -(-per_step // shares), shares * config.data.sequence_length,
        )  # fmt: skip
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
        for change in checkpoints.changed_settings(checkpoint, config):
            logger.warning("changed since that checkpoint: %s", change)
    output_dir = Path(config.output_dir)
    try:
        save_config(config, output_dir / CONFIG)
    except OSError as error:
        raise ConfigError(
            f"output_dir: cannot write to {output_dir}: {error.strerror}; choose another folder"
        ) from error
