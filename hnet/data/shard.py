"""The share of one rank in the global window stream."""

from collections.abc import Iterator

from hnet.data.batch import Batch
from hnet.data.collate import collate
from hnet.data.document import State
from hnet.data.pack import Packer
from hnet.errors import ConfigError, DataError


class RankBatches:
    """Micro-batches of one rank.

    An optimizer step takes the next G windows of the global stream; micro-batch j of rank r takes the m windows from
    (j * world_size + r) * m of them. The stream does not depend on ranks or micro-batches. Windows of other ranks are
    passed over by the sizes of their documents alone; only what is streamed or made into tokens is read by every rank.

    State: after a rank's last micro-batch of a step the stream is moved to the end of the step, so that the state
    between steps is the same on every rank and fits any number of ranks and any micro-batch size.
    """

    def __init__(
        self, packer: Packer, *, rank: int, world_size: int, windows_per_step: int, micro_batch_windows: int
    ) -> None:
        """Raises ConfigError if the windows of a step do not divide evenly."""
        if windows_per_step % (world_size * micro_batch_windows):
            raise ConfigError(
                f"a step of {windows_per_step} windows does not divide into micro-batches of {micro_batch_windows} "
                f"windows on {world_size} ranks; make training.global_batch_bytes a multiple of "
                "training.micro_batch_bytes times the number of ranks"
            )
        self._packer = packer
        self._rank, self._world_size, self._windows = rank, world_size, micro_batch_windows
        self._num_micro_batches = windows_per_step // (world_size * micro_batch_windows)
        self._micro_batch = 0
        self._steps = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._micro_batch == 0:
            self._skip(self._rank)
        batch = collate([next(self._packer) for _ in range(self._windows)])
        self._micro_batch += 1
        if self._micro_batch < self._num_micro_batches:
            self._skip(self._world_size - 1)
        else:
            self._skip(self._world_size - 1 - self._rank)
            self._micro_batch = 0
            self._steps += 1
        return batch

    def state_dict(self) -> State:
        return {
            "packer": self._packer.state_dict(),
            "steps": self._steps,
            "micro_batch": self._micro_batch,
            "rank": self._rank if self._micro_batch else 0,
            "world_size": self._world_size if self._micro_batch else 0,
            "micro_batch_windows": self._windows if self._micro_batch else 0,
        }

    def load_state_dict(self, state: State) -> None:
        """Raises DataError if the state was taken inside a step on another rank or with other sizes."""
        layout = {"rank": self._rank, "world_size": self._world_size, "micro_batch_windows": self._windows}
        saved = {key: state[key] for key in layout}
        if state["micro_batch"] and saved != layout:
            raise DataError(
                f"the data position was saved inside a step with {saved} and does not fit {layout}; "
                "resume with the same layout, or from a position saved between steps"
            )
        self._packer.load_state_dict(state["packer"])
        self._steps, self._micro_batch = state["steps"], state["micro_batch"]

    def _skip(self, micro_batches: int) -> None:
        for _ in range(micro_batches * self._windows):
            next(self._packer)
