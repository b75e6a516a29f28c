"""`Watchdog`: a stalled or broken job ends with a message that names the rank, the step and the last stage entered.

Every rank counts the places that it enters; all call the same modules in the same order, so the count tells who is
behind. Threads tell the others through a `Bulletin`. A rank that has not moved for the limit, or for a minute while
another rank is silent or has failed, ends its process; one whose collective broke says which rank was the cause.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

import torch
import torch.distributed as dist
from torch import nn

from hnet.distributed.bulletin import Bulletin, Place
from hnet.errors import UserError

logger = logging.getLogger(__name__)

EXIT_STALLED = 75
"""Exit code after a stall: a temporary failure (EX_TEMPFAIL of sysexits.h), so that a launcher starts again."""
UNREACHABLE = "the store on rank 0's host does not answer: that host, or this one, is cut off, or rank 0 has ended"


class Watchdog:
    """Context manager around training; with one process it only notes places.

    `beat_seconds` lie between two signs of life; a rank without any for `silent_seconds` counts as dead or cut off.
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        limit_seconds: float,
        *,
        beat_seconds: float = 2.0,
        silent_seconds: float = 60.0,
    ) -> None:
        self.place = Place(rank, socket.gethostname())
        self._world_size, self._limit = world_size, limit_seconds
        self._beat_seconds, self._silent_seconds = beat_seconds, min(silent_seconds, limit_seconds)
        self._moved = time.monotonic()
        self._leaving, self._ended = threading.Event(), threading.Event()
        self._bulletin: Bulletin | None = None
        self._beating: threading.Thread | None = None
        self._signs: dict[int, tuple[int, float]] = {}
        self._heard = ""
        self._unreachable_since: float | None = None

    def entered(self, where: str, step: int | None = None) -> None:
        """Note progress: this rank is now at `where`, and in `step` if that is new."""
        place = self.place
        self.place = replace(place, where=where, count=place.count + 1, step=place.step if step is None else step)
        self._moved = time.monotonic()

    def observe(self, model: nn.Module) -> None:
        """Note when a part of `model` is entered: embedding, then encoder, router, ... of every stage, head."""
        for name, module in model.named_modules():
            parts = [part for part in name.split(".") if part not in ("stage", "inner")]
            if len(parts) == 1 and parts[0]:
                where = f"stage {name.split('.').count('inner')} {parts[0]}" if name.startswith("stage") else name
                module.register_forward_pre_hook(lambda *_, where=where: self.entered(where))

    def __enter__(self) -> "Watchdog":
        if self._world_size > 1:
            self._bulletin = Bulletin(self._world_size)
            self._bulletin.tell(self.place)
            self._beating = threading.Thread(target=self._beat, name="hnet-watchdog", daemon=True)
            self._beating.start()
            threading.Thread(target=self._guard, name="hnet-watchdog", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._leaving.set()
        if self._bulletin is not None and error is not None:
            self._say_why(self._bulletin, error)
        # Rank 0 may have its report to write still.
        self.place = replace(self.place, has_left=True)
        self._ended.set()
        if self._beating is not None:
            self._beating.join()

    def _say_why(self, bulletin: Bulletin, error: BaseException) -> None:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return
        summary = (str(error).strip().splitlines() or [""])[0]
        self.place = replace(self.place, failure=f"{type(error).__name__}: {summary}")
        if _is_collective(error):
            # Someone else's end broke it; whoever that is may be the one that holds the store.
            cause = self._failures() or self._diagnosis()
            logger.error("%s: %s. %s", self.place, self.place.failure, cause)
            return
        if not isinstance(error, UserError):
            logger.error("%s failed: %s", self.place, self.place.failure)
        bulletin.fail(self.place)
        # The others learn it at their next sign of life; the store may end with this process.
        time.sleep(2 * self._beat_seconds)

    def _beat(self) -> None:
        assert self._bulletin is not None
        beat = 0
        while not self._ended.wait(self._beat_seconds):
            beat += 1
            # Only the main thread writes `self.place`.
            self._bulletin.tell(replace(self.place, beat=beat))
        # By this thread, so that no earlier place can come after it.
        self._bulletin.tell(self.place)

    def _guard(self) -> None:
        while not self._leaving.wait(self._beat_seconds):
            stalled = time.monotonic() - self._moved
            failures = self._failures()
            if stalled > self._limit:
                self._give_up(stalled, failures or self._diagnosis())
            if stalled < self._silent_seconds:
                self._signs.clear()
                self._unreachable_since = None
            elif cause := failures or self._silence():
                self._give_up(stalled, cause)

    def _give_up(self, stalled: float, cause: str) -> None:
        if self._leaving.is_set() or self._bulletin is None:
            return
        logger.error(
            "no progress for %.0f s: %s. %s. The same command resumes from the last checkpoint",
            stalled, self.place, cause,
        )  # fmt: skip
        self._bulletin.fail(replace(self.place, failure=f"no progress for {stalled:.0f} s"))
        sys.stdout.flush()
        sys.stderr.flush()
        # The main thread waits inside a collective, where no exception can reach it.
        os._exit(EXIT_STALLED)

    def _failures(self) -> str:
        assert self._bulletin is not None
        heard = "; ".join(f"{place} failed: {place.failure}" for place in self._bulletin.failure() or [])
        # The store may have ended with the rank that failed.
        self._heard = heard or self._heard
        return self._heard

    def _silence(self) -> str:
        """Who has given no sign of life for `silent_seconds`, by what was seen since this rank last moved."""
        assert self._bulletin is not None
        places, now = self._bulletin.places(), time.monotonic()
        if places is None:
            self._unreachable_since = self._unreachable_since or now
            return UNREACHABLE if now - self._unreachable_since > self._silent_seconds else ""
        self._unreachable_since = None
        places = [place for place in places if not place.has_left]
        for place in places:
            beat, since = self._signs.get(place.rank, (-1, now))
            self._signs[place.rank] = (place.beat, since if place.beat == beat else now)
        return _silence_of([place for place in places if now - self._signs[place.rank][1] > self._silent_seconds])

    def _diagnosis(self) -> str:
        """Who gives no sign of life over three beats, or is behind."""
        assert self._bulletin is not None
        before = self._bulletin.places()
        time.sleep(3 * self._beat_seconds)
        after = self._bulletin.places()
        if before is None or after is None:
            return UNREACHABLE
        beats = {place.rank: place.beat for place in before}
        living = [place for place in after if not place.failure and not place.has_left]
        others = [place for place in living if place.rank != self.place.rank]
        silent = _silence_of([place for place in others if beats.get(place.rank) == place.beat])
        # What this rank said last is older than what it knows.
        latest = [self.place if place.rank == self.place.rank else place for place in after]
        return self._failures() or silent or describe(latest, self._world_size)


def describe(places: Sequence[Place], world_size: int) -> str:
    """One line on who holds up the others, by what all living ranks said last."""
    missing = sorted(set(range(world_size)) - {place.rank for place in places})
    if missing:
        return f"never heard of ranks {missing[:8]}: they did not start, or have another network"
    least = min(place.count for place in places)
    behind = [place for place in places if place.count == least]
    if len(behind) == len(places):
        return "all ranks are alive and at the same place: the network between them or a device is stuck"
    named = "; ".join(str(place) for place in behind[:8])
    return f"held up by {named}: the other {len(places) - len(behind)} ranks are further"


def _silence_of(places: Sequence[Place]) -> str:
    """Names silent ranks; empty if there are none."""
    named = "; ".join(str(place) for place in places[:8])
    return f"no sign of life of {named}: process dead or stopped, or host cut off" if places else ""


def _is_collective(error: BaseException) -> bool:
    """Whether an operation between ranks broke, as opposed to this rank's own work."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in ("gloo", "nccl"))
