"""Errors that a user can act on.

The command line prints the message of a `UserError` alone and exits with code 2; every other
exception is a defect of ours and keeps its traceback.
"""


class UserError(ValueError):
    """Bad input: the message names the field, file or line, what was given, and the remedy."""

    on_every_rank = False
    """Whether all ranks of a run raise the same, or all of a host, so that one of each host need say it."""


class ConfigError(UserError):
    """A run or model configuration that cannot be used."""

    on_every_rank = True


class DataError(UserError):
    """A data source, shard or document that cannot be read."""


class CheckpointError(UserError):
    """A checkpoint that is incomplete, damaged, does not fit the run, or cannot be written."""
