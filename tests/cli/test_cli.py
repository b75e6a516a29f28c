"""The command line itself: help, exit codes, and what reaches the functions behind it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hnet
from hnet.cli import main
from hnet.training.config import RunConfig

ROOT = Path(__file__).parents[2]
COMMANDS = ["train", "data prepare", "generate", "inspect", "bench train"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([*command.split(), "--help"])
    assert exit.value.code == 0
    assert f"example:\n  hnet {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hnet {hnet.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["quickstart", "training.steps=3", "model=hnet_tiny"],
        # The deepspeed launcher puts its own option first, whatever follows.
        ["--local_rank=1", "quickstart", "training.steps=3", "model=hnet_tiny"],
        ["quickstart", "training.steps=3", "--local_rank", "1", "model=hnet_tiny"],
    ],
)
def test_train_gets_the_run_and_its_overrides(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    monkeypatch.setattr("hnet.training.loop.train", seen.append)
    assert main(["train", *words]) == 0
    assert seen[0].training.steps == 3
    assert seen[0].model.stages[0].d_model == 64


@pytest.mark.parametrize(("rank", "shown"), [("0", True), ("1", False)])
def test_one_rank_of_a_host_reports_a_wrong_configuration(
    rank: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("RANK", "8")
    assert main(["train", "quickstart", "stps=1"]) == 2
    assert ("unknown key 'stps'" in capsys.readouterr().err) == shown
    assert main(["data", "prepare", "missing/*.txt", "out", "--quiet"]) == 2
    assert "no file matches missing/*.txt" in capsys.readouterr().err


def test_ctrl_c_is_130_and_defects_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: RunConfig) -> None:
        raise KeyboardInterrupt

    def defective(config: RunConfig) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("hnet.training.loop.train", interrupted)
    assert main(["train", "quickstart"]) == 130
    monkeypatch.setattr("hnet.training.loop.train", defective)
    with pytest.raises(RuntimeError, match="ours"):
        main(["train", "quickstart"])


def test_python_m_reports_bad_input_and_survives_a_closed_pipe() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in (".", "kernels"))}
    command = [sys.executable, "-m", "hnet"]
    result = subprocess.run([*command, "trian"], env=environment, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: no command 'trian'; did you mean 'train'?")
    code = (
        "import sys, hnet.inspect.command as command; from hnet.cli import main; "
        "command.run = lambda *_, **__: print('x' * 100_000); sys.exit(main(['inspect', 'x', '--text', 'a']))"
    )
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")
