"""Batches prepared ahead by a thread."""

import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from hnet.data.batch import Batch
from hnet.data.document import State


class BatchStage(Protocol):
    """A resumable stage that yields batches."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class _Worker:
    """The thread's side. It holds no reference to the consumer, so that a forgotten consumer ends it."""

    def __init__(self, stage: BatchStage, depth: int) -> None:
        self.stage, self.depth = stage, depth
        self.ready: deque[tuple[Batch | None, State | None, BaseException | None]] = deque()
        self.condition = threading.Condition()
        self.stopped = False

    def run(self) -> None:
        item: tuple[Batch | None, State | None, BaseException | None]
        while True:
            try:
                item = (next(self.stage), self.stage.state_dict(), None)
            except BaseException as error:  # handed to the consumer, which raises it
                item = (None, None, error)
            with self.condition:
                self.condition.wait_for(lambda: self.stopped or len(self.ready) < self.depth)
                if self.stopped:
                    return
                self.ready.append(item)
                self.condition.notify_all()
            if item[2] is not None:
                return

    def stop(self) -> None:
        with self.condition:
            self.stopped = True
            self.condition.notify_all()


class Prefetched:
    """The same batches as `stage`, up to `depth` of them made ahead in the background.

    State: that of what the consumer has taken; what lies ready is made again after a resume. An error of the stage is
    raised where its batch would have come.
    """

    def __init__(self, stage: BatchStage, depth: int) -> None:
        """`depth` 0: no thread."""
        self._stage, self._depth = stage, depth
        self._state = stage.state_dict()
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None
        self._finalizer: weakref.finalize[[], Prefetched] | None = None
        self._failure: BaseException | None = None
        self._ahead = False  # the stage has gone further than the consumer; rewinding may read, so only when needed

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._failure is not None:
            raise self._failure
        if not self._depth:
            batch = next(self._stage)
            self._state = self._stage.state_dict()
            return batch
        worker = self._start()
        with worker.condition:
            worker.condition.wait_for(lambda: bool(worker.ready))
            taken, state, error = worker.ready.popleft()
            worker.condition.notify_all()
        if taken is None or state is None:
            self._failure = error if error is not None else StopIteration()
            raise self._failure
        self._state = state
        return taken

    def state_dict(self) -> State:
        return self._state

    def load_state_dict(self, state: State) -> None:
        self.close()
        self._failure, self._ahead = None, False
        self._stage.load_state_dict(state)
        self._state = self._stage.state_dict()

    def close(self) -> None:
        """End the thread and drop what lies ready. The next batch starts another thread, from what was taken."""
        if self._worker is None or self._thread is None or self._finalizer is None:
            return
        self._finalizer()
        self._thread.join()
        self._worker = self._thread = self._finalizer = None
        self._ahead = True

    def _start(self) -> _Worker:
        if self._worker is None:
            if self._ahead:
                self._stage.load_state_dict(self._state)
                self._ahead = False
            self._worker = _Worker(self._stage, self._depth)
            self._thread = threading.Thread(target=self._worker.run, name="hnet-prefetch", daemon=True)
            self._finalizer = weakref.finalize(self, self._worker.stop)
            self._thread.start()
        return self._worker
