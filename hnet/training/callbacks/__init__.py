"""What happens around the steps, one feature a file, and which of it a run has."""

from hnet.training.callbacks.base import Callback
from hnet.training.config import RunConfig


def build_callbacks(config: RunConfig, *, is_main: bool) -> list[Callback]:
    """The callbacks of a run in the order they are called: a row is complete before it is written, and written before
    the checkpoint that a resumed run starts from. Every rank has those that communicate; rank 0 also those that write.
    """
    from hnet.training.callbacks.checkpointing import Checkpointing
    from hnet.training.callbacks.metrics import Metrics
    from hnet.training.callbacks.nonfinite import StopAfterNonfinite
    from hnet.training.callbacks.validation import Validation

    callbacks: list[Callback] = []
    if config.data.validation:
        callbacks.append(Validation())
    callbacks.append(Metrics())
    if is_main:
        callbacks += _writers(config)
    callbacks += [Checkpointing(), StopAfterNonfinite()]
    if is_main:
        callbacks += _final(config)
    return callbacks


def _writers(config: RunConfig) -> list[Callback]:
    from hnet.training.callbacks.console import Console
    from hnet.training.callbacks.metrics_file import MetricsFile

    writers: list[Callback] = [MetricsFile(), Console(config.logging.progress)]
    if config.logging.tensorboard:
        from hnet.training.callbacks.tensorboard import TensorBoard

        writers.append(TensorBoard())
    if config.logging.wandb != "disabled":
        from hnet.training.callbacks.wandb import WandB

        writers.append(WandB())
    return writers


def _final(config: RunConfig) -> list[Callback]:
    from hnet.training.callbacks.curves import Curves
    from hnet.training.callbacks.preemption import Preemption
    from hnet.training.callbacks.report import Report

    return [Preemption(), Curves(), Report()]
