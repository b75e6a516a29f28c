"""Held-out text: the same windows at every pass, shared out over the ranks."""

from collections.abc import Iterator
from itertools import islice

from hnet.data.batch import Batch
from hnet.data.config import DataConfig
from hnet.data.encode import EncodedDocuments
from hnet.data.limit import Limited
from hnet.data.pack import make_packer
from hnet.data.stream import open_mixture
from hnet.data.task import NextUnits, Task
from hnet.data.tokenizer import check_layout, load_tokenizer
from hnet.segmentation.layout import PLAIN, Layout


class ValidationBatches:
    """Iterate any number of times; each pass gives the same batches.

    The first `validation_bytes` bytes of text (sources in their order and shares, each once, never shuffled) are packed
    as in training. Micro-batch j of rank r takes the windows from (j * world_size + r) * micro_batch_windows. Every
    rank gets the same number of batches, and one without windows gets a batch of one unit and no targets. Sums over the
    ranks therefore do not depend on their number.
    """

    def __init__(self, config: DataConfig, *, rank: int, world_size: int, micro_batch_windows: int, task: Task) -> None:
        """Raises DataError if a source cannot be read."""
        self._tokenizer = load_tokenizer(config.tokenizer)
        check_layout(self._tokenizer, task.layout)
        mixture, _ = open_mixture(config.validation, config, epochs=1, shuffle=False)
        documents = EncodedDocuments(Limited(mixture, config.validation_bytes), self._tokenizer)
        self._packer = make_packer(documents, config.sequence_length, config.packing)
        self._beginning = self._packer.state_dict()
        self._rank, self._world_size, self._windows = rank, world_size, micro_batch_windows
        self._task = task

    def __iter__(self) -> Iterator[Batch]:
        self._packer.load_state_dict(self._beginning)
        number = self._rank * self._windows
        while round_of_ranks := list(islice(self._packer, self._world_size * self._windows)):
            own = round_of_ranks[self._rank * self._windows : (self._rank + 1) * self._windows]
            yield self._task.batch(own, number) if own else self._task.empty(self._tokenizer.bos)
            number += self._world_size * self._windows


def validation_batches(
    config: DataConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
    micro_batch_windows: int = 1,
    layout: Layout = PLAIN,
    task: Task | None = None,
) -> ValidationBatches:
    """The held-out batches of a rank; none if `config.validation` is empty. `task` None: the next units in `layout`.

    Raises DataError if a source cannot be read.
    """
    return ValidationBatches(
        config,
        rank=rank,
        world_size=world_size,
        micro_batch_windows=micro_batch_windows,
        task=task or NextUnits(layout),
    )
