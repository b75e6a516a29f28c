"""Attempts until the run is finished: restarts from the last checkpoint while that makes progress."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from hnet.training.checkpoint_folder import CheckpointFolder, step_of
from hnet.training.config import PREEMPTED
from hnet_launch.attempt import AttemptResult, run_attempt
from hnet_launch.job import Command
from hnet_launch.stopping import StopRequests

LONGEST_WAIT = 300.0
SAVING_SECONDS = 40.0
"""DeepSpeed leaves the ranks of other hosts alone when it is told to stop, and gives them 30 s to end."""


class Outcome(StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    PREEMPTED = "preempted"
    STOPPED = "stopped"
    BAD_INPUT = "bad input"
    FAILED = "failed"


@dataclass(frozen=True)
class Policy:
    """When to start again."""

    max_restarts: int = 10
    stalled_restarts: int = 3
    """Failures in a row without a new checkpoint after which starting again is held to be useless."""
    wait: float = 5.0
    """Seconds before the first restart; doubled for every further one without a new checkpoint."""

    def wait_before(self, stalled: int) -> float:
        """Seconds to wait after the given number of failures in a row without a new checkpoint."""
        return float(min(LONGEST_WAIT, self.wait * 2 ** max(0, stalled - 1)))


@dataclass(frozen=True)
class Run:
    """What the launcher knows about a run: its folder and its last step."""

    output_dir: Path
    steps: int

    @property
    def last_step(self) -> int | None:
        """Step of the newest complete checkpoint; None before the first."""
        complete = CheckpointFolder(self.output_dir / "checkpoints").complete()
        return step_of(complete[-1]) if complete else None

    @property
    def is_finished(self) -> bool:
        """Whether the last step is saved."""
        return self.last_step is not None and self.last_step >= self.steps

    def wait_until_saved(self, sleep: Callable[[float], None]) -> None:
        """Wait, for a limited time, until ranks that were told to stop have saved."""
        for _ in range(int(SAVING_SECONDS)):
            if (self.output_dir / PREEMPTED).exists() or self.is_finished:
                return
            sleep(1.0)

    def outcome(self, result: AttemptResult) -> Outcome:
        """What an attempt came to. The tool's exit code alone does not say: DeepSpeed's is 0 if pdsh was killed."""
        if result.code == 0 and self.is_finished:
            return Outcome.FINISHED
        if (self.output_dir / PREEMPTED).exists():
            return Outcome.PREEMPTED
        if result.stop_signal is not None:
            return Outcome.STOPPED
        return Outcome.BAD_INPUT if result.is_bad_input else Outcome.FAILED


@dataclass(frozen=True)
class Attempt:
    """One finished attempt, for the record of the launch."""

    index: int
    outcome: Outcome
    cause: str
    seconds: float
    first_step: int | None
    last_step: int | None
    result: AttemptResult


def supervise(
    run: Run,
    make_command: Callable[[int], Command],
    policy: Policy,
    *,
    logs: Callable[[int], Path],
    first_index: int = 0,
    on_attempt: Callable[[Attempt], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    requests: StopRequests | None = None,
) -> Attempt:
    """Run commands until one finishes the run, is stopped, or starting again is useless; returns the last attempt.

    `make_command(index)` and `logs(index)` belong to one attempt; `first_index` numbers the first one. `requests`
    catches signals; without one, they are caught here. A signal between attempts ends the run like one within.
    """
    if requests is None:
        options: dict[str, Any] = {"logs": logs, "first_index": first_index, "on_attempt": on_attempt, "sleep": sleep}
        with StopRequests() as caught:
            return supervise(run, make_command, policy, **options, requests=caught)
    stalled = 0
    for restart in range(policy.max_restarts + 1):
        index = first_index + restart
        before = run.last_step
        if requests.number is not None:
            return _not_started(index, before, requests.number)
        (run.output_dir / PREEMPTED).unlink(missing_ok=True)
        result = run_attempt(make_command(index), logs(index), requests=requests)
        if result.stop_signal is not None and result.silent:
            _say("waiting for the ranks that are out of sight to save")
            with requests.interrupting():
                run.wait_until_saved(sleep)
        outcome, after = run.outcome(result), run.last_step
        cause = "" if outcome is Outcome.FINISHED else describe(result, logs(index))
        attempt = Attempt(index, outcome, cause, result.seconds, before, after, result)
        if on_attempt is not None:
            on_attempt(attempt)
        if outcome is not Outcome.FAILED:
            _say(_ending(attempt))
            return attempt
        _say(f"attempt {index} failed after {result.seconds:.0f} s: {cause}")
        stalled = stalled + 1 if after == before else 0
        if stalled >= policy.stalled_restarts:
            _say(f"giving up: {stalled} attempts in a row brought no checkpoint after {_checkpoint(after)}")
            return attempt
        if restart == policy.max_restarts:
            _say(f"giving up after {policy.max_restarts} restarts (--max-restarts); the run is at {_checkpoint(after)}")
            return attempt
        wait = policy.wait_before(stalled)
        _say(f"starting again from {_checkpoint(after)} in {wait:g} s (restart {restart + 1} of {policy.max_restarts})")
        with requests.interrupting():
            if requests.number is None:
                sleep(wait)
    raise AssertionError("a loop that returns")


def _not_started(index: int, step: int | None, number: int) -> Attempt:
    name = signal.Signals(number).name
    _say(f"{name}: attempt {index} is not started; the same command goes on from {_checkpoint(step)}")
    result = AttemptResult(stop_signal=number)
    return Attempt(index, Outcome.STOPPED, f"{name} before it was started", 0.0, step, step, result)


def describe(result: AttemptResult, logs: Path) -> str:
    """Which rank on which host ended the job, how, and what it said last."""
    root, silent = result.root, result.silent
    parts = []
    if root is not None:
        parts.append(f"rank {root.rank} on {root.host} {root.how}")
    if silent:
        named = ", ".join(f"rank {event.rank} on {event.host}" for event in silent[:8])
        parts.append(
            f"no word from {named}{' and more' if len(silent) > 8 else ''}: host or connection lost, or killed"
        )
    if root is None and not silent:
        parts.append("no rank failed" if result.ended else "no rank was started")
    parts.append(f"the launcher exited with code {result.code}")
    said = root.tail if root is not None and root.tail else result.words
    last = "".join(f"\n    {line}" for line in said)
    return "; ".join(parts) + f". Logs: {logs}" + (f"\n  last lines:{last}" if last else "")


def _ending(attempt: Attempt) -> str:
    at = _checkpoint(attempt.last_step)
    endings = {
        Outcome.FINISHED: f"finished in attempt {attempt.index}, at {at}",
        Outcome.PREEMPTED: f"stopped on request and saved, at {at}; the same command goes on from there",
        Outcome.STOPPED: f"stopped on request, but no rank saved; the same command goes on from {at}. {attempt.cause}",
        Outcome.BAD_INPUT: f"not started again, as bad input stays bad: {attempt.cause}",
    }
    return endings[attempt.outcome]


def _checkpoint(step: int | None) -> str:
    return "the beginning, as there is no checkpoint" if step is None else f"checkpoint step-{step:08d}"


def _say(message: str) -> None:
    print(f"hnet launch: {message}", file=sys.stderr, flush=True)
