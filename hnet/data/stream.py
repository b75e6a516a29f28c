"""The training stream: source -> order -> mixture -> units -> windows -> this rank's batches -> prefetch.

    sources      documents by number, or read one after another (streamed)
    indexed/     the order of documents in an epoch: a permutation of seed and epoch
    streamed     (streamed: shuffled within blocks)
    mixture      the next document comes from the source furthest behind its share
    encode       BOS, bytes or tokens, EOS
    pack         windows of `sequence_length` units: the global stream, the same for any number of ranks
    shard        the windows of this rank, collated into batches as the model reads them (its layout)
    prefetch     made ahead by a thread

Each is one file with `state_dict` and `load_state_dict`; the state of a stage contains that of the stage before it.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Literal

from hnet.data.batch import Batch
from hnet.data.config import DataConfig, SourceConfig
from hnet.data.document import Documents, State
from hnet.data.encode import EncodedDocuments
from hnet.data.indexed import IndexedDocuments
from hnet.data.mixture import Mixture
from hnet.data.pack import make_packer
from hnet.data.prefetch import Prefetched
from hnet.data.shard import RankBatches
from hnet.data.shuffle import derive_key
from hnet.data.sources import describe_source, open_source
from hnet.data.streamed import StreamedDocuments, StreamedSource
from hnet.data.task import NextUnits, Task
from hnet.data.tokenizer import check_layout, load_tokenizer
from hnet.errors import ConfigError, DataError
from hnet.segmentation.layout import PLAIN, Layout

STATE_VERSION = 1


class TrainStream:
    """An endless iterator of `Batch` with an exact, JSON-serialisable position.

    Use it as a context manager or call `close` at the end.
    """

    def __init__(self, batches: Prefetched, identity: dict[str, object]) -> None:
        """`identity`: what the global window stream depends on; a state fits only a stream of the same identity."""
        self._batches = batches
        self._identity: dict[str, object] = json.loads(json.dumps(identity))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)

    def __enter__(self) -> "TrainStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def state_dict(self) -> State:
        """Position after the last batch taken. Between steps it is the same on every rank and loads on any number."""
        return {"version": STATE_VERSION, "identity": self._identity, "batches": self._batches.state_dict()}

    def load_state_dict(self, state: State) -> None:
        """Continue after `state`. Raises DataError if it belongs to other data, another seed or other packing."""
        if state.get("version") != STATE_VERSION:
            raise DataError(
                f"the saved data position has version {state.get('version')}; this program reads {STATE_VERSION}"
            )
        saved = state["identity"]
        for key, value in self._identity.items():
            if saved.get(key) != value:
                raise DataError(
                    f"the saved data position does not fit: {key} was {saved.get(key)!r} and is now {value!r}; "
                    "restore it, or start a new run with another output_dir"
                )
        self._batches.load_state_dict(state["batches"])

    def close(self) -> None:
        """End the background thread. The stream stays usable."""
        self._batches.close()


def build_stream(
    config: DataConfig,
    *,
    split: Literal["train", "validation"] = "train",
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    windows_per_step: int,
    micro_batch_windows: int,
    layout: Layout = PLAIN,
    task: Task | None = None,
) -> TrainStream:
    """Open the sources of `split` and stream batches of one rank without end.

    Step s takes windows [s * windows_per_step, (s + 1) * windows_per_step) of a global stream that depends on `config`
    and `seed` alone; see `RankBatches` for the share of a rank. Windows are cut by their units of text, whatever the
    `layout` adds. `task` None: the next units, in this layout. Raises DataError or ConfigError on bad input.
    """
    mixture, descriptions = open_mixture(_sources(config, split), config, seed=seed)
    tokenizer = load_tokenizer(config.tokenizer)
    task = task or NextUnits(layout)
    check_layout(tokenizer, task.layout)
    encoded = EncodedDocuments(mixture, tokenizer)
    packer = make_packer(encoded, config.sequence_length, config.packing)
    batches = RankBatches(
        packer,
        rank=rank,
        world_size=world_size,
        windows_per_step=windows_per_step,
        micro_batch_windows=micro_batch_windows,
        empty_unit=tokenizer.bos,
        task=task,
    )
    identity = {
        "seed": seed,
        "tokenizer": tokenizer.identity,
        "sequence_length": config.sequence_length,
        "packing": config.packing,
        "shuffle": config.shuffle,
        "sources": descriptions,
        **task.identity,
    }
    if task.layout.rule is not None:
        identity["layout"] = repr(task.layout)
    return TrainStream(Prefetched(batches, config.prefetch), identity)


def open_mixture(
    sources: Sequence[SourceConfig],
    config: DataConfig,
    *,
    seed: int = 0,
    epochs: int | None = None,
    shuffle: bool | None = None,
) -> tuple[Mixture, list[dict[str, object]]]:
    """The documents of `sources` in their order and shares, and what identifies each source.

    `epochs` None: without end. `shuffle` None: as the config says.
    """
    shuffle = config.shuffle if shuffle is None else shuffle
    streams: list[Documents] = []
    descriptions = []
    for number, source_config in enumerate(sources):
        source = open_source(source_config)
        key = derive_key(seed, number)
        if isinstance(source, StreamedSource):
            buffer = config.shuffle_buffer
            streams.append(StreamedDocuments(source, key=key, buffer=buffer, shuffle=shuffle, epochs=epochs))
        else:
            streams.append(IndexedDocuments(source, key=key, shuffle=shuffle, epochs=epochs))
        descriptions.append(describe_source(source_config, source))
        if isinstance(source, StreamedSource) and shuffle:
            descriptions[-1]["shuffle_buffer"] = config.shuffle_buffer
    return Mixture(streams, [source.weight for source in sources]), descriptions


def _sources(config: DataConfig, split: Literal["train", "validation"]) -> tuple[SourceConfig, ...]:
    sources = config.train if split == "train" else config.validation
    if not sources:
        raise ConfigError(f"data.{split} names no source; give a path, `sample:{split}` or a dataset name")
    return sources
