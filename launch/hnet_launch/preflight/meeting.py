"""Nodes meet at the job's own port on the first node: shows that they reach it, compares clocks, and lets them act
together. One text line a message; the first node serves, and is a client of itself like the others."""

import socket
import threading
import time
from types import TracebackType

_PROBES = 5
_GRACE = 15.0
"""Seconds for what nodes do after they have waited in vain for one that did not come."""


class Server(threading.Thread):
    """Answers `time` at once, and `wait NAME` when all nodes have said so or the patience is over."""

    def __init__(self, port: int, num_nodes: int, patience: float) -> None:
        """Raises OSError if the port is taken."""
        super().__init__(daemon=True)
        self._num_nodes, self._deadline = num_nodes, time.monotonic() + patience
        self._waiting: dict[str, int] = {}
        self._changed = threading.Condition()
        self._handlers: list[threading.Thread] = []
        self._socket = socket.create_server(("", port), backlog=max(128, num_nodes), reuse_port=False)
        self._socket.settimeout(0.2)

    def run(self) -> None:
        """Serve until all nodes have left, or the patience is over and those that are here had time to end."""
        with self._socket:
            while time.monotonic() < self._deadline and len(self._handlers) < self._num_nodes:
                try:
                    connection, _ = self._socket.accept()
                except TimeoutError:
                    continue
                handler = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                handler.start()
                self._handlers.append(handler)
            for handler in self._handlers:
                handler.join(max(0.0, self._deadline + _GRACE - time.monotonic()))

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as stream:
            for line in stream:
                if line == "time\n":
                    stream.write(f"{time.time()!r}\n")
                else:
                    self._wait(line)
                    stream.write("go\n")
                stream.flush()

    def _wait(self, name: str) -> None:
        with self._changed:
            self._waiting[name] = self._waiting.get(name, 0) + 1
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._waiting[name] >= self._num_nodes, max(0.0, self._deadline - time.monotonic())
            )


class Client:
    """A node's connection to the meeting; a context manager."""

    def __init__(self, host: str, port: int, patience: float) -> None:
        """Keeps trying while the first node starts. Raises OSError if half of `patience` seconds were not enough: a
        network that loses packets must not make this node later than the first one's patience."""
        deadline = time.monotonic() + patience / 2
        while True:
            try:
                self._socket = socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic()))
                break
            except OSError:
                if time.monotonic() + 1.0 > deadline:
                    raise
                time.sleep(0.5)
        self._socket.settimeout(patience + _GRACE)
        self._stream = self._socket.makefile("rw")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stream.close()
        self._socket.close()

    def clock(self) -> tuple[float, float]:
        """Seconds by which this node's clock is ahead of the first node's, and how uncertain that is: half of the
        shortest of a few round trips."""
        best = (0.0, float("inf"))
        for _ in range(_PROBES):
            began = time.time()
            theirs = float(self._ask("time"))
            ended = time.time()
            uncertainty = (ended - began) / 2
            if uncertainty < best[1]:
                best = ((began + ended) / 2 - theirs, uncertainty)
        return best

    def wait(self, name: str) -> None:
        """Return when every node waits for `name`, or the first node's patience is over."""
        self._ask(f"wait {name}")

    def _ask(self, message: str) -> str:
        self._stream.write(f"{message}\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise ConnectionError("the first node ended the connection")
        return answer


def serve(port: int, num_nodes: int, patience: float) -> Server:
    """Start the first node's server. Raises OSError if the port is taken."""
    server = Server(port, num_nodes, patience)
    server.start()
    return server
