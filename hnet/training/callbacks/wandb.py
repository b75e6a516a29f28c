"""Weights & Biases, online or offline."""

import secrets
from pathlib import Path
from typing import Any

from hnet.errors import ConfigError
from hnet.training.callbacks.base import Callback, Row, numbers
from hnet.training.run import Run

ID_FILE = "wandb-run-id.txt"


class WandB(Callback):
    """Logs every number of a row. The run's id is kept in `output_dir`, so that a resumed run continues it."""

    _run: Any = None

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "logging.wandb is not `disabled`, but wandb is not installed: pip install 'hnet-lm[tracking]'"
            ) from error
        self._wandb = wandb

    def on_start(self, run: Run) -> None:
        settings = run.config.logging
        try:
            self._run = self._wandb.init(
                project=settings.wandb_project,
                name=run.output_dir.name,
                id=_run_id(run.output_dir / ID_FILE),
                dir=str(run.output_dir),
                mode=settings.wandb,
                resume="allow" if settings.wandb == "online" else None,
                config=run.config.model_dump(mode="json"),
            )
        except self._wandb.errors.UsageError as error:
            raise ConfigError(
                f"logging.wandb is {settings.wandb!r}, but W&B refused: {error}; "
                "run `wandb login`, or set logging.wandb=offline"
            ) from error

    def on_row(self, run: Run, row: Row) -> None:
        self._run.log(numbers(row), step=row["step"])

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()


def _run_id(path: Path) -> str:
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()
