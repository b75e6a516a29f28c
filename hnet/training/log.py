"""The run's messages for the user: the `hnet` loggers on standard error, unless the program has set up logging."""

import logging
import sys

from hnet.distributed import environment


class _StandardError(logging.Handler):
    """Looks `sys.stderr` up at each message, since a progress bar stands in for it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_messages() -> None:
    """Rank 0 shows what is worth knowing, the others warnings. Does nothing where logging is configured already."""
    logger = logging.getLogger("hnet")
    if logger.handlers or logging.getLogger().handlers:
        return
    logger.addHandler(_StandardError())
    logger.setLevel(logging.INFO if environment.rank() == 0 else logging.WARNING)
    logger.propagate = False
