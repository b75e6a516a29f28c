"""What every rank runs inside: variables, log, prefix, and the word about its end."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hnet_launch.events import Ended, Started, parse_event
from hnet_launch.rank import torch_variables

ROOT = Path(__file__).parents[2]
HOST = socket.gethostname().partition(".")[0]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"RANK": "3", "SLURM_PROCID": "0"}, {}),
        (
            {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1", "MASTER_ADDR": "a"},
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"},
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
                "MASTER_ADDR": "a",
                "SLURM_PROCID": "0",
            },
            {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        ),
        (
            {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0"},
            {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
        ),
    ],
)
def test_variables_of_every_tool_become_those_of_torch(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert torch_variables(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "RANK is not set, nor is any of"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0"}, "MASTER_ADDR"),
    ],
)
def test_missing_variables_are_named(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        torch_variables(environ)


def _start(folder: Path, code: str, **variables: str) -> "subprocess.Popen[str]":
    (folder / "job.py").write_text(code)
    paths = os.pathsep.join(str(path) for path in (folder, ROOT, ROOT / "launch"))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": paths, "RANK": "5", "HNET_LAUNCH_LOGS": f"{folder}/logs"}
    command = [sys.executable, "-m", "hnet_launch.rank", "job", "one", "two words"]
    return subprocess.Popen(
        command, env=environment | variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_lines_go_to_a_log_and_with_a_prefix_to_the_console(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    secrets.write_text('{"HF_TOKEN": "x y"}')
    code = "import os, sys; print(sys.argv[1:], os.environ['HF_TOKEN']); print('no end', file=sys.stderr, end='')"
    process = _start(tmp_path, code, HNET_LAUNCH_SECRETS=str(secrets))
    lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    assert lines[1:3] == [f"[{HOST}:5] ['one', 'two words'] x y", f"[{HOST}:5] no end"]
    started, ended = parse_event(lines[0]), parse_event(lines[3])
    assert isinstance(started, Started) and isinstance(ended, Ended)
    assert (started.host, started.rank, ended.code) == (HOST, 5, 0)
    assert (tmp_path / "logs" / f"rank-00005.{HOST}.log").read_text() == "['one', 'two words'] x y\nno end\n"


def test_the_end_of_a_killed_rank_is_told_with_its_last_lines(tmp_path: Path) -> None:
    code = "import os; print('x' * 10000); print('last words\\n  File a.py, line 3\\n'); os.kill(os.getpid(), 9)"
    process = _start(tmp_path, code)
    lines = process.communicate(timeout=60)[0].splitlines()
    ended = parse_event(lines[-1])
    assert process.returncode == 128 + 9 and isinstance(ended, Ended)
    assert ended.code == -9 and ended.how.startswith("was killed by SIGKILL; if nobody did it, the kernel did")
    assert ended.tail[-1] == "last words" and len(lines[-1]) < 4096


def test_signals_reach_the_module_and_it_dies_with_its_wrapper(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (print('told', flush=True)))\n"
        "print('ready', flush=True)\n"
        "while True: time.sleep(0.05)\n"
    )
    process = _start(tmp_path, code)
    assert process.stdout is not None
    started = parse_event(process.stdout.readline())
    assert isinstance(started, Started) and "ready" in process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    assert "told" in process.stdout.readline()
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{started.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{started.pid}").exists()


def test_a_full_disk_stops_the_log_and_not_the_rank(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / f"rank-00005.{HOST}.log").symlink_to("/dev/full")
    process = _start(tmp_path, "print(1); print(2)")
    lines = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "the log of this rank ends here" in lines and f"[{HOST}:5] 2" in lines


def test_a_rank_without_its_secrets_does_not_start(tmp_path: Path) -> None:
    process = _start(tmp_path, "print('started')", HNET_LAUNCH_SECRETS=str(tmp_path / "absent"))
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 2 and "absent" in printed and HOST in printed and "started" not in printed


@pytest.mark.parametrize("line", ["hnet-rank ended {broken", 'hnet-rank started {"host": 1}', "some text"])
def test_other_lines_are_no_events(line: str) -> None:
    assert parse_event(line) is None
