"""TensorBoard event files in `output_dir/tensorboard`."""

from typing import Any

from hnet.errors import ConfigError
from hnet.training.callbacks.base import Callback, Row, numbers
from hnet.training.run import Run


class TensorBoard(Callback):
    """Every number of a row as a scalar. A resumed run hides what was logged past its checkpoint."""

    _writer: Any = None

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "logging.tensorboard is true, but tensorboard is not installed: pip install 'hnet-lm[tracking]'"
            ) from error
        self._open = SummaryWriter

    def on_start(self, run: Run) -> None:
        self._writer = self._open(str(run.output_dir / "tensorboard"), purge_step=run.state.step + 1)

    def on_row(self, run: Run, row: Row) -> None:
        for name, value in numbers(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
