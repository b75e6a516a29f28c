"""`metrics.jsonl`: one JSON object per logged step."""

import json
import os
from pathlib import Path
from typing import IO

from hnet.training.callbacks.base import Callback, Row
from hnet.training.run import Run

NAME = "metrics.jsonl"


class MetricsFile(Callback):
    """Appends, after cutting off what was logged past the checkpoint that the run resumes from."""

    _file: IO[str] | None = None

    def on_start(self, run: Run) -> None:
        path = run.output_dir / NAME
        truncate(path, run.state.step)
        self._file = path.open("a", encoding="utf-8")

    def on_row(self, run: Run, row: Row) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def truncate(path: Path, last_step: int) -> None:
    """Keep the complete lines up to `last_step`; the file is replaced atomically. Does nothing if there is none."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > last_step:
            break
        kept.append(line)
    draft = path.with_name(f".{path.name}")
    draft.write_text("".join(kept), encoding="utf-8")
    os.replace(draft, path)
