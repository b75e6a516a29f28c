"""`hnet launch` with tools that only write down how they were called, and every kind of bad input."""

import json
import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hnet.cli import main
from hnet_launch import cli_launch
from hnet_launch.backends import deepspeed
from hnet_launch.cluster import ClusterConfig

Tools = Callable[..., Callable[[], list[dict[str, Any]]]]

FINISH = """
from pathlib import Path
run = Path(sys.argv[-1])
folder = run.parents[1] / "checkpoints" / "step-00000040"
folder.mkdir(parents=True)
(folder / "manifest.json").write_text("{}")
"""
IN_A_JOB = {"SLURM_JOB_ID": "123", "SLURM_JOB_NODELIST": "node[1-2]"}
SCONTROL = """
answers = {"hostnames": "node1\\nnode2", "job": "JobId=123 JobState=STATE Requeue=1"}
print(answers.get(sys.argv[2], ""))
"""


@pytest.fixture
def deepspeed_tool(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[dict[str, Any]]]:
    calls = tools(deepspeed=FINISH, pdsh="", ompi_info="")
    monkeypatch.setattr(deepspeed, "python_tool", lambda name: str(tmp_path / "tools" / name))
    return calls


def test_hosts_are_reached_through_deepspeed(
    run_file: Path, tmp_path: Path, deepspeed_tool: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hosts").write_text("node1 slots=2\nnode2 slots=2\n")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    arguments = ["--hostfile", str(tmp_path / "hosts"), "--no-preflight", "training.seed=3"]
    assert main(["launch", str(run_file), *arguments]) == 0
    (call,) = deepspeed_tool()
    out = tmp_path / "out"
    assert call["argv"][1:3] == ["--hostfile", str(out / "launch" / "hostfile")]
    assert call["argv"][-4:] == ["--module", "hnet_launch.rank", "hnet.train", str(out / "launch" / "run.yaml")]
    exported = (out / "launch" / "deepspeed_env").read_text().splitlines()
    assert "NCCL_DEBUG=INFO" in exported and not [line for line in exported if "hf_secret" in line]
    assert call["environment"]["DS_ENV_FILE"] == str(out / "launch" / "deepspeed_env")
    assert "seed: 3" in (out / "launch" / "run.yaml").read_text()
    (launch,) = json.loads((out / "launch.json").read_text())
    assert launch["cluster"]["hosts"] == ["node1", "node2"] and launch["attempts"][0]["outcome"] == "finished"
    assert launch["code"]["package"] and "HF_TOKEN" in launch["variables"] and "hf_secret" not in json.dumps(launch)


def test_a_job_of_slurm_is_written_and_submitted(run_file: Path, tmp_path: Path, tools: Tools, capsys: Any) -> None:
    calls = tools(sbatch="print('4711;cluster')")
    assert main(["launch", str(run_file), "--slurm", "--nodes", "2", "--gpus-per-node", "4", "--env", "A_KEY=k"]) == 0
    (call,) = calls()
    script = tmp_path / "out" / "launch" / "job.sbatch"
    assert call["argv"][1:] == ["--parsable", "--export=ALL", str(script)] and call["environment"]["A_KEY"] == "k"
    assert "#SBATCH --gpus-per-node=4" in script.read_text() and "A_KEY" not in script.read_text()
    printed = capsys.readouterr().out
    assert printed == f"submitted job 4711; its log: {tmp_path}/out/launch/slurm-4711.log\n"


@pytest.mark.parametrize(("state", "is_queued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_preempted_job_goes_back_into_the_queue_unless_it_was_cancelled(
    run_file: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, state: str, is_queued: bool
) -> None:
    preempted = FINISH.replace("step-00000040", "step-00000010") + '(run.parents[1] / "preempted").touch()\n'
    calls = tools(srun=preempted, scontrol=SCONTROL.replace("STATE", state))
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    arguments = "--srun --requeue --nodes 2 --gpus-per-node 1 --cpus-per-task 3 --no-preflight --cpu"
    assert main(["launch", str(run_file), *arguments.split()]) == 0
    srun = next(call for call in calls() if call["argv"][0].endswith("srun"))
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=3"} <= set(srun["argv"])
    assert srun["environment"]["MASTER_ADDR"] == "node1" and srun["environment"]["MASTER_PORT"] == "20123"
    assert (calls()[-1]["argv"][1:] == ["requeue", "123"]) is is_queued


def test_a_signal_during_the_preflight_puts_the_job_back_into_the_queue(
    run_file: Path, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import signal, time\nos.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(60)"
    calls = tools(srun=body, scontrol=SCONTROL.replace("STATE", "RUNNING"))
    for name, value in IN_A_JOB.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main(["launch", str(run_file), *["--srun", "--requeue", "--nodes", "2", "--gpus-per-node", "1", "--cpu"]])
    assert ended.value.code == 1 and calls()[-1]["argv"][1:] == ["requeue", "123"]
    assert len([call for call in calls() if call["argv"][0].endswith("srun")]) == 1
    assert json.loads((tmp_path / "out" / "launch.json").read_text())[0]["attempts"] == []


def test_a_preempted_pod_does_not_count_as_finished(
    run_file: Path, tmp_path: Path, deepspeed_tool: Callable[[], list[dict[str, Any]]], tools: Tools
) -> None:
    tools(deepspeed='from pathlib import Path; (Path(sys.argv[-1]).parents[1] / "preempted").touch()')
    (tmp_path / "hosts").write_text(f"{socket.gethostname()} slots=1\n")
    options = ["--hostfile", str(tmp_path / "hosts"), "--no-preflight", "--preempted-code", "75"]
    with pytest.raises(SystemExit) as ended:
        main(["launch", str(run_file), *options])
    assert ended.value.code == 75 and len(deepspeed_tool()) == 1


def test_a_job_of_slurm_keeps_the_port(run_file: Path, tools: Tools, capsys: Any) -> None:
    tools(sbatch="")
    assert main(["launch", str(run_file), "--slurm", "--cpu", "--master-port", "65436", "--dry-run"]) == 0
    assert "--master-port=65436" in capsys.readouterr().out


def test_pods_get_no_places_of_this_machine_and_may_all_be_restarted(
    run_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name in ("HF_HOME", "CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_CACHE", "NCCL_DEBUG"):
        monkeypatch.setenv(name, f"my-{name}")
    words = "--kubernetes pytorchjob --nodes 4 --cpu --image i --volume a:/a --max-restarts 5 --env HF_HOME --dry-run"
    assert main(["launch", str(run_file), "output_dir=x", *words.split()]) == 0
    said = capsys.readouterr().out
    assert "my-HF_HOME" in said and "my-NCCL_DEBUG" in said and "backoffLimit: 20" in said
    assert not [name for name in ("CUDA_HOME", "TORCHINDUCTOR_CACHE_DIR", "HF_HUB_CACHE") if name in said]


def test_a_manifest_is_written_and_handed_in_when_asked(
    run_file: Path, tmp_path: Path, tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    calls = tools(kubectl="print('jobset.jobset.x-k8s.io/hnet-x created')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    words = ["launch", str(run_file), "output_dir=x", "--kubernetes", "--cpu", "--image", "hnet", "--volume", "a:/data"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "submit it: kubectl apply -f hnet-x.yaml" in told.out and "not in the manifest: HF_TOKEN" in told.err
    assert "hf_secret" not in (tmp_path / "hnet-x.yaml").read_text() and calls() == []
    assert main([*words, "--apply", "--manifest", "job.yaml"]) == 0
    assert calls()[0]["argv"][1:] == ["apply", "-f", "job.yaml"]
    assert "hnet-x created" in capsys.readouterr().out


@pytest.mark.parametrize(("visible", "ranks", "gpu"), [("", 1, "cpu"), ("-1", 1, "cpu"), ("0,2", 2, "H100")])
def test_ranks_of_this_machine_are_the_gpus_that_are_visible(
    visible: str, ranks: int, gpu: str, run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen: list[ClusterConfig] = []
    monkeypatch.setattr(cli_launch._Launch, "supervise", lambda launch: seen.append(launch.cluster))
    assert main(["launch", str(run_file)]) == 0
    assert (seen[0].gpus_per_node, seen[0].gpu) == (ranks, gpu)


BAD = [
    ("training.steps=none", ["training.steps: got 'none'"]),
    ("--hostfile absent", ["no such hostfile: absent"]),
    ("--hostfile hosts --nodes 3", ["--nodes 3: only 2 hosts are named"]),
    ("--hostfile hosts --node-rank 2", ["--node-rank 2: there are 2 hosts, from 0"]),
    ("--hostfile hosts", ["no command 'pdsh' on PATH", "apt-get install pdsh", "--launcher openmpi", "--node-rank"]),
    ("--hostfile hosts --launcher openmpi", ["no command 'ompi_info'", "install Open MPI on every host"]),
    ("--hostfile hosts --launcher ssh", ["no launcher 'ssh'", "did you mean 'openssh'", "pdsh, openssh, openmpi"]),
    ("--hostfile hosts --slurm", ["not allowed with argument"]),
    ("--cluster h100_8x9", ["no configuration 'h100_8x9'", "did you mean 'h100_8x8'?"]),
    ("--nodes 2", ["2 nodes, but no way to them", "--hostfile, --slurm or --torchrun"]),
    ("--torchrun --nnodes 4:2", ["--nnodes 4:2: give N or MIN:MAX"]),
    ("--torchrun --nnodes 2", ["needs --rdzv-endpoint HOST:PORT"]),
    ("--slurm --nodes 2", ["--slurm needs --gpus-per-node N", "--cpu"]),
    ("--kubernetes --image i --volume a:/a output_dir=x", ["--kubernetes needs --gpus-per-node N", "--cluster"]),
    ("--slurm --nodes 2 --gpus-per-node 1", ["no command 'sbatch' on PATH", "login node"]),
    ("--slurm --cpu --sbatch-arg exclusive", ["--sbatch-arg: got 'exclusive'", "--exclusive"]),
    ("--srun", ["this is no allocation of Slurm", "--slurm"]),
    ("--kubernetes --cpu --volume a:/a output_dir=x", ["needs --image"]),
    ("--kubernetes --cpu --image i output_dir=x", ["needs --volume CLAIM:/mount/path"]),
    ("--kubernetes --cpu --image i --volume a output_dir=x", ["--volume: got 'a'"]),
    ("--kubernetes --cpu --image i --volume a:/a", ["is in none of the volumes (/a)"]),
    ("--kubernetes --cpu --image i --volume a:/a output_dir=../x", ["output_dir ../x is in none of the volumes"]),
    ("--kubernetes --cpu --image i --volume a:/a output_dir=x --job-name 9", ["--job-name: got '9'"]),
    ("--kubernetes --cpu --image i --volume a:/a output_dir=x --apply", ["no command 'kubectl'"]),
    ("--kubernetes swarm", ["no kubernetes 'swarm'", "jobset, pytorchjob"]),
    ("--kubernetes --cpu --image i --volume a:/a --namespace A_b", ["--namespace: got the name 'A_b'"]),
    ("--kubernetes --cpu --image i --volume a:/a --secret A", ["--secret: got the name 'A'"]),
    ("--kubernetes --cpu --image i --volume a_b:/a", ["--volume: got the name 'a_b'", "dots between"]),
    ("--kubernetes --cpu --image i --volume a:/a --volume a:/b", ["got 'a:/b' after another", "once"]),
    ("--kubernetes --cpu --image i --volume a:/a --volume b:/a/", ["got 'b:/a/' after another", "once"]),
    ("--rdzv-endpoint node1:1", ["--rdzv-endpoint means nothing without --torchrun"]),
    ("--node-rank 0", ["--node-rank means nothing without --hostfile"]),
    ("--slurm --cpu --apply", ["--apply means nothing without --kubernetes"]),
    ("--slurm --cpu --requeue", ["--requeue means nothing without --srun"]),
    ("--hostfile hosts --time 1", ["--time means nothing without --slurm"]),
    ("--slurm --cpu --time '1\n2'", ["--time: got '1\\n2'", "line break"]),
    ("--master-port 65437", ["--master-port: got '65437'", "at most 65436"]),
    ("--env 1A=2", ["--env 1A: not the name of a variable"]),
    ("--max-restarts -1", ["--max-restarts: got '-1'", "at least 0"]),
]


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize(("words", "expected"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_told_before_anything_starts(
    words: str, expected: list[str], run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "nothing").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("node1 slots=8\nnode2 slots=8\n")
    assert main(["launch", str(run_file), *shlex.split(words)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and all(part in told.err for part in expected), told.err
    assert not (tmp_path / "out" / "logs").exists()
