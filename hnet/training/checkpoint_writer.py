"""`CheckpointWriter`: every rank writes its own part of a checkpoint, in the background if asked; rank 0 publishes it.

    begin     rank 0 makes the draft; every rank takes what it will write, as copies if training goes on meanwhile
    write     every rank on its own: its files onto the disk, and their checksums. Without communication: a thread can
    publish   between steps, once all ranks have written: rank 0 adds the small files and the manifest, and renames

An error on any rank is one CheckpointError on all of them; the draft is removed and the last good checkpoint stays.
"""

import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hnet.config import save_config
from hnet.data.stream import TrainStream
from hnet.distributed.balance import WindowBalance
from hnet.distributed.collectives import broadcast_object, gather_on_main, max_over_ranks
from hnet.errors import CheckpointError
from hnet.model.loading import CONFIG
from hnet.model.saved_tensors import INDEX, INDEX_VERSION, Kind, SavedTensors, part_file, whole_file
from hnet.training.checkpoint_folder import CheckpointFolder, Sealed, seal
from hnet.training.config import RunConfig
from hnet.training.engine import Engine
from hnet.training.fragments import WEIGHT, Fragment
from hnet.training.state import TrainState

RANDOM = "random.safetensors"
BALANCE = "balance/"
"""Prefix in `random.safetensors` of what `engine.balance` has learnt."""
STATE = "state.json"

_DONE, _WRITING, _FAILED = 0, 1, 2
_LONG_WAIT = 1.0
"""Seconds for which training may wait for an unfinished checkpoint before the log says so."""

Ranges = dict[str, list[tuple[int, int]]]
"""Which elements of each flattened tensor a file holds, in the order in which they lie there."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    path: str
    cause: str
    number: int | None
    """`errno`, if the system gave one."""


@dataclass(slots=True)
class _Part:
    """What one rank wrote."""

    files: dict[str, Sealed] = field(default_factory=dict)
    ranges: dict[str, Ranges] = field(default_factory=dict)
    random: dict[str, Tensor] = field(default_factory=dict)
    host: str = field(default_factory=socket.gethostname)
    failure: _Failure | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    """A checkpoint that is being written."""

    step: int
    counters: dict[str, Any]
    balance: dict[str, Tensor]
    shapes: dict[str, torch.Size]
    part: "Future[_Part]"


class CheckpointWriter:
    """Saves one run. Every method is called by every rank, between steps and in the same order."""

    def __init__(self, folder: CheckpointFolder, config: RunConfig, engine: Engine) -> None:
        self._folder, self._config, self._engine = folder, config, engine
        self._thread = ThreadPoolExecutor(1, "checkpoint") if config.training.async_checkpoints else None
        self._pending: _Pending | None = None

    def save(self, state: TrainState, stream: TrainStream, balance: WindowBalance | None = None) -> None:
        """Write everything after `state.step` steps; in the background, only begin to. Raises CheckpointError."""
        self.wait()
        step, engine = state.step, self._engine
        self._on_main(step, lambda: self._folder.open_draft(step))
        tensors, ranges = _own_tensors(engine, copy=self._thread is not None)
        part = _Part(ranges=ranges, random=_random_state(engine.device))
        written: Future[_Part]
        if self._thread is not None:
            written = self._thread.submit(_write, self._folder.draft(step), tensors, part)
        else:
            written = Future()
            written.set_result(_write(self._folder.draft(step), tensors, part))
        counters = {**asdict(state), "data": stream.state_dict()}
        learnt = {} if balance is None else balance.state_dict()
        arrays = {f"{BALANCE}{name}": torch.from_numpy(array) for name, array in learnt.items()}
        self._pending = _Pending(step, counters, arrays, engine.shapes(), written)
        if self._thread is None:
            self.wait()

    def poll(self) -> None:
        """Publish what is being written if all ranks have finished. Raises CheckpointError if one has failed."""
        if self._pending is None:
            return
        part = self._pending.part
        progress = _WRITING if not part.done() else _FAILED if part.result().failure else _DONE
        if int(max_over_ranks(torch.tensor(progress, device=self._engine.device))) != _WRITING:
            self.wait()

    def wait(self) -> None:
        """Publish what is being written, once all ranks have finished. Raises CheckpointError if one has failed."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        began = time.monotonic()
        parts = gather_on_main(pending.part.result())
        if self._thread is not None and time.monotonic() - began > _LONG_WAIT:
            logger.info("waited %.1f s for checkpoint %d to be written", time.monotonic() - began, pending.step)
        failures = {rank: (part.host, part.failure) for rank, part in enumerate(parts) if part.failure}
        self._on_main(pending.step, lambda: self._publish(pending, parts), failures)

    def _publish(self, pending: _Pending, parts: list[_Part]) -> None:
        draft = self._folder.draft(pending.step)
        small = [CONFIG, STATE, RANDOM, *self._config.model.keep(draft)]
        save_config(self._config, draft / CONFIG)
        (draft / STATE).write_text(json.dumps(pending.counters))
        random = {f"rank{rank}/{key}": value for rank, part in enumerate(parts) for key, value in part.random.items()}
        save_file(random | pending.balance, draft / RANDOM)
        if len(parts) > 1:
            small.append(INDEX)
            files = {name: ranges for part in parts for name, ranges in part.ranges.items()}
            index = {"version": INDEX_VERSION, "shapes": pending.shapes, "files": files}
            (draft / INDEX).write_text(json.dumps(index))
        if SavedTensors(draft).shapes.keys() != pending.shapes.keys():
            raise CheckpointError(f"{draft} lacks weights that the model has: a defect of this program")
        sealed = {name: entry for part in parts for name, entry in part.files.items()}
        sealed |= {name: seal(draft / name) for name in small}
        self._folder.publish(pending.step, sealed, keep=self._config.training.keep_checkpoints)

    def _on_main(
        self, step: int, act: Callable[[], None], failures: Mapping[int, tuple[str, _Failure]] | None = None
    ) -> None:
        """Have rank 0 act unless something has failed already; raise what failed on every rank."""
        error = None
        if self._engine.is_main:
            failed = dict(failures or {})
            try:
                if not failed:
                    act()
            except CheckpointError as own:
                error = own
            except (OSError, SafetensorError) as own:
                failed[0] = (socket.gethostname(), _describe(own, self._folder.draft(step)))
            if failed:
                error = _error(self._folder, step, failed)
            if error is not None:
                _drop(self._folder, step)
        error = broadcast_object(error)
        if error is not None:
            error.on_every_rank = True
            raise error


def _own_tensors(engine: Engine, *, copy: bool) -> tuple[dict[str, dict[str, Tensor]], dict[str, Ranges]]:
    """This rank's files as tensors on the CPU, and which ranges they are of. One rank alone writes whole tensors."""
    rank, world_size, shapes = engine.rank, engine.world_size, engine.shapes()
    kinds: tuple[Kind, ...] = ("model", "optimizer")
    names = {kind: part_file(kind, rank, world_size) if world_size > 1 else whole_file(kind) for kind in kinds}
    pieces: dict[str, dict[str, list[Fragment]]] = {name: {} for name in names.values()}
    for fragment in engine.fragments():
        if not fragment.values.numel():
            continue
        kind: Kind = "model" if fragment.tensor.startswith(f"{WEIGHT}/") else "optimizer"
        values = fragment.values.to("cpu", copy=copy)
        key = fragment.tensor.removeprefix(f"{WEIGHT}/")
        pieces[names[kind]].setdefault(key, []).append(Fragment(key, fragment.start, values))
    tensors: dict[str, dict[str, Tensor]] = {name: {} for name in pieces}
    ranges: dict[str, Ranges] = {name: {} for name in pieces}
    for name, entries in pieces.items():
        for key, fragments in entries.items():
            values = fragments[0].values if len(fragments) == 1 else torch.cat([one.values for one in fragments])
            tensors[name][key] = values if world_size > 1 else values.view(shapes[key.rpartition("/")[2]])
            ranges[name][key] = [(one.start, one.start + one.values.numel()) for one in fragments]
    return tensors, ranges


def _write(draft: Path, tensors: Mapping[str, Mapping[str, Tensor]], part: _Part) -> _Part:
    """Put this rank's files onto the disk. Errors are part of the answer: all ranks must hear of them."""
    for name, entries in tensors.items():
        path = draft / name
        try:
            save_file(dict(entries), path, metadata={"format": "pt"})
            part.files[name] = seal(path)
        except Exception as error:
            part.failure = _describe(error, path)
            break
    return part


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _describe(error: Exception, path: Path) -> _Failure:
    """`safetensors` gives the system's error number in its text only."""
    if isinstance(error, OSError):
        return _Failure(str(error.filename or path), error.strerror or str(error), error.errno)
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else None
    return _Failure(str(path), os.strerror(number) if number else str(error), number)


def _error(folder: CheckpointFolder, step: int, failures: Mapping[int, tuple[str, _Failure]]) -> CheckpointError:
    """What failed on the first rank, what to do, and what is left."""
    rank, (host, failure) = min(failures.items())
    others = f" (ranks that failed: {len(failures)})" if len(failures) > 1 else ""
    complete = folder.complete()
    left = f"resumes from {complete[-1]}" if complete else "starts again: there is no earlier checkpoint"
    return CheckpointError(
        f"the checkpoint of step {step} could not be saved: rank {rank} on {host}: {failure.path}: "
        f"{failure.cause}{others}; {_remedy(failure.number)}, and run the same command: it {left}"
    )


def _remedy(number: int | None) -> str:
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "free disk space or lower training.keep_checkpoints"
    if number in (errno.EROFS, errno.EACCES, errno.EPERM):
        return "make output_dir writable"
    if number in (errno.ENOENT, errno.EIO, errno.ESTALE):
        return "see that output_dir is one folder on a healthy disk that every host sees"
    return "remove the cause"


def _drop(folder: CheckpointFolder, step: int) -> None:
    try:
        folder.drop_draft(step)
    except OSError as error:
        logger.warning("could not remove the unfinished %s: %s", folder.draft(step), error.strerror)
