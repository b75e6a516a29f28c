"""The share of one rank in the global window stream."""

from collections.abc import Iterator

from hnet.data.batch import Batch
from hnet.data.document import State
from hnet.data.pack import Packer
from hnet.data.task import NextUnits, Task
from hnet.errors import DataError


class RankBatches:
    """Micro-batches of one rank.

    An optimizer step takes the next G windows of the global stream, in S = world_size * ceil(G / (world_size * m))
    shares as equal as can be, of at most m windows each: share s has windows [s * G // S, (s + 1) * G // S), and
    micro-batch j of rank r is share j * world_size + r. A share without windows is a batch of one unit that predicts
    nothing, so that every rank runs the same number of micro-batches. The stream does not depend on ranks or
    micro-batches. Windows of other ranks are passed over by the sizes of their documents alone; only what is streamed
    or made into tokens is read by every rank.

    State: after a rank's last micro-batch of a step the stream is moved to the end of the step, so that the state
    between steps is the same on every rank and fits any number of ranks and any micro-batch size.
    """

    def __init__(
        self,
        packer: Packer,
        *,
        rank: int,
        world_size: int,
        windows_per_step: int,
        micro_batch_windows: int,
        empty_unit: int,
        task: Task | None = None,
    ) -> None:
        """`empty_unit`: id of the one unit of a batch without windows; `task` None: the next units, as they are."""
        self._packer, self._empty_unit, self._task = packer, empty_unit, task or NextUnits()
        self._rank, self._world_size, self._windows = rank, world_size, micro_batch_windows
        self._num_micro_batches = num_micro_batches(windows_per_step, world_size, micro_batch_windows)
        num_shares = world_size * self._num_micro_batches
        self._starts = [share * windows_per_step // num_shares for share in range(num_shares + 1)]
        self._micro_batch = 0
        self._steps = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        share = self._micro_batch * self._world_size + self._rank
        if self._micro_batch == 0:
            self._skip(0, share)
        windows = [next(self._packer) for _ in range(self._starts[share + 1] - self._starts[share])]
        number = self._steps * self._starts[-1] + self._starts[share]
        batch = self._task.batch(windows, number) if windows else self._task.empty(self._empty_unit)
        self._micro_batch += 1
        if self._micro_batch < self._num_micro_batches:
            self._skip(share + 1, share + self._world_size)
        else:
            self._skip(share + 1, len(self._starts) - 1)
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

    def _skip(self, first_share: int, last_share: int) -> None:
        for _ in range(self._starts[last_share] - self._starts[first_share]):
            next(self._packer)


def num_micro_batches(windows_per_step: int, world_size: int, micro_batch_windows: int) -> int:
    """Micro-batches of every rank per step."""
    return -(-windows_per_step // (world_size * micro_batch_windows))
