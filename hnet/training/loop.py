"""The training loop. It knows no features: those are callbacks."""

import contextlib

from hnet.training.allocator import keep_freed_memory
from hnet.training.callbacks import build_callbacks
from hnet.training.config import RunConfig
from hnet.training.log import show_messages
from hnet.training.run import open_run


def train(config: RunConfig) -> None:
    """Train to the last step and report; the same call again resumes from the latest checkpoint of `output_dir`.

    Returns early, with a checkpoint, after SIGTERM. Raises UserError (ConfigError, DataError, CheckpointError) for bad
    input, and if too many steps in a row are not finite.
    """
    show_messages()
    keep_freed_memory()
    with open_run(config) as run, contextlib.ExitStack() as stack:
        run.callbacks = build_callbacks(config, is_main=run.engine.is_main)
        for callback in run.callbacks:
            stack.callback(callback.close)
        for callback in run.callbacks:
            callback.on_start(run)
        stopped = False
        while not run.is_finished and not stopped:
            result = run.next_step()
            run.extras = {}
            for callback in run.callbacks:
                callback.on_step(run, result)
            stopped = result.stop_requested
        for callback in run.callbacks:
            (callback.on_end if run.is_finished else callback.on_stop)(run)
