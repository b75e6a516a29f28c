"""Restarts: when there are some, from where, how often, and what is said about whoever died."""

import json
import os
import signal
import socket
import sys
import threading
import time as clock
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.errors import UserError
from hnet_launch.attempt import AttemptResult, run_attempt
from hnet_launch.environment import Environment
from hnet_launch.events import Ended, Started
from hnet_launch.job import Command
from hnet_launch.stopping import StopRequests
from hnet_launch.supervise import Attempt, Outcome, Policy, Run, describe, supervise

STEPS = 40
Lives = Callable[..., Attempt]

HEAD = """
import os, signal, sys, time
from pathlib import Path
out = Path(sys.argv[1])
attempt = int(sys.argv[2])
def save(step):
    folder = out / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
def say(*lines):
    for line in lines:
        print("[node:0]", line, flush=True)
"""


def _ended(rank: int, code: int, *tail: str, host: str = "node", time: float = 0.0) -> Ended:
    return Ended(host=host, rank=rank, code=code, time=time, tail=list(tail))


@pytest.fixture
def lives(tmp_path: Path) -> Lives:
    """`lives(code, ...)` supervises runs of a script that gets the output_dir and the number of the attempt."""

    def start(code: str, policy: Policy | None = None, waits: list[float] | None = None) -> Attempt:
        script = tmp_path / "life.py"
        script.write_text(HEAD + code)
        argv = (sys.executable, str(script), str(tmp_path / "out"))
        return supervise(
            Run(tmp_path / "out", STEPS),
            lambda index: Command((*argv, str(index))),
            policy or Policy(),
            logs=lambda index: tmp_path / "out" / "logs" / f"attempt-{index:03d}",
            sleep=(waits if waits is not None else []).append,
        )

    return start


def test_a_run_that_dies_goes_on_from_its_checkpoint(lives: Lives, tmp_path: Path, capfd: Any) -> None:
    dead = _ended(1, -9, "step 11", host="node2").to_line()
    code = f"say({dead!r})\nif attempt < 2: save(10 * (attempt + 1)); sys.exit(7)\nsave({STEPS})"
    waits: list[float] = []
    attempt = lives(code, waits=waits)
    assert (attempt.index, attempt.outcome, attempt.first_step, attempt.last_step) == (2, Outcome.FINISHED, 20, STEPS)
    assert waits == [5.0, 5.0]
    said = capfd.readouterr().err
    assert "attempt 0 failed" in said and "rank 1 on node2 was killed by SIGKILL" in said and "step 11" in said
    assert "starting again from checkpoint step-00000010 in 5 s (restart 1 of 10)" in said
    assert (tmp_path / "out" / "logs" / "attempt-001" / "launcher.log").read_text().startswith("[node:0] hnet-rank")


def test_restarts_without_progress_end_with_the_cause(lives: Lives, capfd: Any) -> None:
    waits: list[float] = []
    attempt = lives("print('Segmentation fault'); sys.exit(1)", waits=waits)
    assert (attempt.index, attempt.outcome, waits) == (2, Outcome.FAILED, [5.0, 10.0])
    said = capfd.readouterr().err
    assert "giving up: 3 attempts in a row brought no checkpoint after the beginning" in said
    assert "no rank was started; the launcher exited with code 1" in said and "Segmentation fault" in said


def test_restarts_end_at_their_limit(lives: Lives, capfd: Any) -> None:
    attempt = lives("save(attempt + 1); sys.exit(1)", Policy(max_restarts=4))
    assert (attempt.index, attempt.outcome, attempt.last_step) == (4, Outcome.FAILED, 5)
    assert (
        "giving up after 4 restarts (--max-restarts); the run is at checkpoint step-00000005" in capfd.readouterr().err
    )


def test_bad_input_is_not_tried_again(lives: Lives, capfd: Any) -> None:
    # torchrun says 1 whatever its ranks said.
    said = [_ended(0, 2, "error: no such file: text.jsonl"), _ended(1, -15, time=1.0)]
    attempt = lives(f"say(*{[event.to_line() for event in said]!r}); sys.exit(1)")
    assert (attempt.index, attempt.outcome) == (0, Outcome.BAD_INPUT)
    assert "not started again, as bad input stays bad: rank 0 on node exited with code 2" in capfd.readouterr().err


def test_a_run_that_saved_on_request_is_not_started_again(lives: Lives, capfd: Any) -> None:
    attempt = lives("save(7); (out / 'preempted').touch()")
    assert (attempt.index, attempt.outcome) == (0, Outcome.PREEMPTED)
    assert "stopped on request and saved, at checkpoint step-00000007" in capfd.readouterr().err


def test_ranks_out_of_sight_are_given_time_to_save(lives: Lives, tmp_path: Path, capfd: Any) -> None:
    begun = Started(host="node2", rank=1, pid=1).to_line()
    stop = "os.kill(os.getppid(), signal.SIGTERM)"
    code = f"say({begun!r}); signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); {stop}; time.sleep(60)"

    class Waits(list[float]):
        """After the third wait the rank has saved."""

        def append(self, seconds: float) -> None:
            super().append(seconds)
            if len(self) == 3:
                (tmp_path / "out" / "preempted").touch()

    (tmp_path / "out").mkdir()
    waits = Waits()
    assert lives(code, waits=waits).outcome is Outcome.PREEMPTED
    assert waits == [1.0, 1.0, 1.0] and "out of sight" in capfd.readouterr().err


def test_a_full_disk_is_told(tmp_path: Path, capfd: Any) -> None:
    file = tmp_path / "file"
    file.write_text("no folder")
    assert run_attempt(Command((sys.executable, "-c", "print('still shown')")), file / "logs").code == 0
    told = capfd.readouterr()
    assert "still shown" in told.out and f"no {file}/logs/launcher.log" in told.err
    with pytest.raises(UserError, match=f"cannot write {file}/run.yaml: .*; make room, or write elsewhere"):
        Command((), files={file / "run.yaml": "text"}).write_files()


def test_exit_code_0_before_the_last_step_is_no_success(lives: Lives) -> None:
    assert lives("if attempt == 1: save(40)", Policy(wait=0.0)).index == 1


@pytest.mark.parametrize("saves", [True, False])
def test_a_signal_is_passed_on_as_the_tool_wants_it(tmp_path: Path, saves: bool, capfd: Any) -> None:
    script = tmp_path / "life.py"
    end = "save(3); (out / 'preempted').touch(); sys.exit(0)" if saves else "sys.exit(1)"
    body = (
        f"def stop(*_):\n    {end}\nsignal.signal(signal.SIGUSR1, stop)\nsay('ready')\nwhile True: time.sleep(0.05)\n"
    )
    script.write_text(HEAD + body)
    argv = (sys.executable, str(script), str(tmp_path / "out"), "0")
    run = Run(tmp_path / "out", STEPS)

    class Console:
        """Interrupts us as soon as the run is there, as a terminal would."""

        def write(self, text: str) -> int:
            if "ready" in text:
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
            return len(text)

        def flush(self) -> None:
            """Nothing is kept back."""

    result = run_attempt(Command(argv, stop_signal=signal.SIGUSR1), tmp_path / "logs", Console())  # type: ignore[arg-type]
    assert result.stop_signal == signal.SIGINT
    assert run.outcome(result) is (Outcome.PREEMPTED if saves else Outcome.STOPPED)
    assert "SIGINT: all ranks save and stop" in capfd.readouterr().err


def test_a_signal_during_the_wait_for_a_restart_ends_the_run_as_stopped(lives: Lives, capfd: Any) -> None:
    class Waits(list[float]):
        """Slurm's warning comes while we wait."""

        def append(self, seconds: float) -> None:
            super().append(seconds)
            os.kill(os.getpid(), signal.SIGUSR1)
            clock.sleep(60)

    waits = Waits()
    attempt = lives("save(10); sys.exit(1)", waits=waits)
    assert (attempt.index, attempt.outcome, attempt.last_step, waits) == (1, Outcome.STOPPED, 10, [5.0])
    assert "SIGUSR1: attempt 1 is not started; the same command goes on from checkpoint" in capfd.readouterr().err


def test_a_signal_before_the_first_attempt_starts_nothing(tmp_path: Path) -> None:
    with StopRequests() as requests:
        os.kill(os.getpid(), signal.SIGTERM)
        made: list[int] = []

        def make(index: int) -> Command:
            made.append(index)
            return Command(("true",))

        run = Run(tmp_path / "out", STEPS)
        attempt = supervise(run, make, Policy(), logs=lambda index: tmp_path, requests=requests)
    assert (attempt.outcome, made) == (Outcome.STOPPED, [])


def test_a_second_interrupt_ends_a_tool_that_takes_another_signal_for_saving(tmp_path: Path) -> None:
    code = (
        "signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getppid(), signal.SIGINT))\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "os.kill(os.getppid(), signal.SIGINT)\nfor _ in range(200): time.sleep(0.05)\n"
    )
    (tmp_path / "life.py").write_text(HEAD + code)
    argv = (sys.executable, str(tmp_path / "life.py"), str(tmp_path / "out"), "0")
    assert run_attempt(Command(argv, stop_signal=signal.SIGUSR1), tmp_path / "logs").code == 3


def test_ranks_of_this_machine_are_told_directly(lives: Lives, tmp_path: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    event = Started(host=host, rank=0, pid=0).to_line().replace('"pid": 0', '"pid": PID')
    code = (
        "signal.signal(signal.SIGUSR1, lambda *_: (save(9), (out / 'preempted').touch(), sys.exit(0)))\n"
        f"say({event!r}.replace('PID', str(os.getpid())))\n"
        "time.sleep(0.3); os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    )
    attempt = lives(code)
    assert (attempt.outcome, attempt.last_step) == (Outcome.PREEMPTED, 9)


def test_variables_reach_the_tool_and_secret_files_go_with_it(tmp_path: Path, capfd: Any) -> None:
    secret = tmp_path / "secret"
    code = f"import os; print(os.environ['A'], os.environ['B_TOKEN'], open({str(secret)!r}).read())"
    environment = Environment({"A": "1"}, {"B_TOKEN": "2"})
    command = Command((sys.executable, "-c", code), environment, secret_files={secret: "3"})
    assert run_attempt(command, tmp_path / "logs").code == 0
    assert capfd.readouterr().out == "1 2 3\n" and not secret.exists()


def test_the_first_failure_is_the_cause_and_not_what_follows_from_it() -> None:
    result = AttemptResult(code=1)
    lost = _ended(0, 1, "RuntimeError: Connection closed by peer [10.0.0.2]:1234", time=9.0)
    result.ended = {0: lost, 1: _ended(1, -9, time=10.0), 2: _ended(2, -15, time=12.0), 3: _ended(3, 0)}
    assert result.root == result.ended[1]
    result.ended = {0: lost}
    result.started = {rank: Started(host=f"node{rank}", rank=rank, pid=1) for rank in range(2)}
    told = describe(result, Path("logs"))
    assert "rank 0 on node0" not in told and "no word from rank 1 on node1: host or connection lost" in told
    assert "Connection closed by peer" in told


@pytest.mark.parametrize(("stalled", "seconds"), [(0, 5.0), (1, 5.0), (2, 10.0), (4, 40.0), (50, 300.0)])
def test_waits_grow_up_to_a_limit(stalled: int, seconds: float) -> None:
    assert Policy().wait_before(stalled) == seconds


def test_output_of_ranks_is_shown_and_their_events_are_not(tmp_path: Path, capfd: Any) -> None:
    events = [Started(host="a", rank=0, pid=1).to_line(), _ended(0, 0).to_line()]
    lines = json.dumps([f"[a:0] {events[0]}", "[a:0] step 1", "tool talks", f"[a:0] {events[1]}"])
    code = f"import json; print(*json.loads({lines!r}), sep=chr(10))"
    result = run_attempt(Command((sys.executable, "-c", code)), tmp_path)
    assert capfd.readouterr().out.splitlines() == ["[a:0] step 1", "tool talks"]
    assert result.words == ["tool talks"] and result.ended[0].code == 0 and result.silent == []
