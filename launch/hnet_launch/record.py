"""`output_dir/launch.json`: every launch of a run, the code that it ran, and how each attempt ended."""

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hnet_launch.code_version import code_version
from hnet_launch.environment import without_secrets
from hnet_launch.job import Backend, Job, replace_text
from hnet_launch.supervise import Attempt


class LaunchRecord:
    """One launch, added to those before it."""

    def __init__(self, path: Path, command: Sequence[str], backend: Backend, job: Job) -> None:
        self._path = path
        self._before = _read(self._path)
        self._attempts: list[dict[str, Any]] = []
        self._launch = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": socket.gethostname(),
            "command": without_secrets(command),
            "backend": backend.name,
            "cluster": backend.cluster.model_dump(mode="json"),
            "code": asdict(code_version()),
            "variables": sorted(job.environment.all()),
            "attempts": self._attempts,
        }

    def save(self) -> None:
        """Write it; says so where that is not possible, as on a full disk, which is no reason to end a run."""
        try:
            replace_text(self._path, json.dumps([*self._before, self._launch], indent=1))
        except OSError as error:
            print(f"hnet launch: cannot write {self._path}: {error.strerror or error}", flush=True)

    def add(self, attempt: Attempt) -> None:
        """Add an attempt and write the record again."""
        fields = {"attempt": attempt.index, "outcome": attempt.outcome.value, "cause": attempt.cause}
        steps = {"first_step": attempt.first_step, "last_step": attempt.last_step}
        self._attempts.append({**fields, **steps, "seconds": round(attempt.seconds, 1)})
        self.save()


def _read(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return content if isinstance(content, list) else []
