"""What the ranks of a job tell each other beside their collectives: where they are, and why they end.

It goes through the store in which the process group met, over a connection of its own, and never waits long: a store
that does not answer is itself a finding.
"""

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from hnet.distributed.collectives import broadcast_object

T = TypeVar("T")

ANSWER_SECONDS = 10.0
"""A store that takes longer is taken to be out of reach."""

_STORE_ERRORS = (RuntimeError, OSError, ValueError)
"""What an operation on a store raises when whoever holds it is gone."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank is."""

    rank: int
    host: str
    step: int = 0
    """The step in progress, from 1; 0 before the first."""
    count: int = 0
    """Places entered since the start: equal on two ranks that are at the same place."""
    where: str = "start"
    """`stage 1 encoder`, `backward`, `data`, ..."""
    beat: int = 0
    """Signs of life so far."""
    failure: str = ""
    """Why this rank ends; empty while it does not."""
    has_left: bool = False
    """It is done, and will give no more signs of life."""

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (step {self.step}, last entered: {self.where})"


class Bulletin:
    """Places of all ranks, and the first failure. Every method answers None after `ANSWER_SECONDS` of silence."""

    def __init__(self, world_size: int) -> None:
        """Every rank must call."""
        self._store, self._world_size = _own_connection(), world_size
        # A store outlives the ranks of an attempt under torchrun: what those said is not for these.
        self._attempt = broadcast_object(uuid.uuid4().hex)

    def tell(self, place: Place) -> bool | None:
        """Publish one's own place."""
        return _in_time(lambda: self._tell(place))

    def fail(self, place: Place) -> bool | None:
        """Publish why this rank ends, unless another came first."""
        return _in_time(lambda: bool(self._store.compare_set(self._key("failure"), "", _to_text(place))))

    def failure(self) -> list[Place] | None:
        """The first failure, if there is one."""
        key = self._key("failure")
        return _in_time(lambda: [_to_place(self._store.get(key))] if self._store.check([key]) else [])

    def places(self) -> list[Place] | None:
        """What every rank said last, in rank order; those that never spoke are left out."""
        return _in_time(self._places)

    def _tell(self, place: Place) -> bool:
        self._store.set(self._key(place.rank), _to_text(place))
        return True

    def _places(self) -> list[Place]:
        keys = [self._key(rank) for rank in range(self._world_size)]
        # One question for all in the usual case.
        spoken = keys if self._store.check(keys) else [key for key in keys if self._store.check([key])]
        together = self._store.has_extended_api()
        texts = self._store.multi_get(spoken) if together else [self._store.get(key) for key in spoken]
        return [_to_place(text) for text in texts]

    def _key(self, name: int | str) -> str:
        return f"hnet/{self._attempt}/{name}"


def _to_text(place: Place) -> str:
    return json.dumps(asdict(place))


def _to_place(text: bytes) -> Place:
    return Place(**json.loads(text))


def _in_time(ask: Callable[[], T]) -> T | None:
    """The answer, or None after `ANSWER_SECONDS` or a broken connection: a cut network leaves a socket waiting."""
    answers: list[T] = []

    def work() -> None:
        try:
            answers.append(ask())
        except _STORE_ERRORS:
            return

    thread = threading.Thread(target=work, name="hnet-bulletin", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    return answers[0] if answers else None


def _own_connection() -> Any:
    store: Any = dist.distributed_c10d._get_default_store()
    while isinstance(store, dist.distributed_c10d.PrefixStore):
        store = store.underlying_store
    return store.clone()
