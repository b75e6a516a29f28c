"""Checks of every node before a job starts. `preflight` is what the launcher calls.

Imports no torch; only the bandwidth probe, which the launcher starts like a training job, does.
"""

from hnet_launch.preflight.checks import PreflightError
from hnet_launch.preflight.run import preflight

__all__ = ["PreflightError", "preflight"]
