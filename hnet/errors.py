"""Errors that a user can act on.

The command line prints the message of a `UserError` alone and exits with code 2; every other
exception is a defect of ours and keeps its traceback.
"""


class UserError(ValueError):
    """Bad input: the message names the field, file or line, what was given, and the remedy."""


class ConfigError(UserError):
    """A run or model configuration that cannot be used."""


class DataError(UserError):
    """A data source, shard or document that cannot be read."""


class CheckpointError(UserError):
    """A checkpoint that is incomplete, damaged, or does not fit the run."""
