"""`hnet launch`: from its arguments to one backend, one submission or one dry run."""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from hnet.config import load_config
from hnet.config.document import yaml_text
from hnet.errors import ConfigError
from hnet.training.config import RunConfig
from hnet_launch.arguments import DEFAULT_PORT
from hnet_launch.backends.deepspeed import DeepSpeedBackend
from hnet_launch.backends.kubernetes import KubernetesOptions, apply, manifest
from hnet_launch.backends.slurm import SlurmOptions, batch_script, requeue_this_job, submit, submit_command
from hnet_launch.backends.srun import SrunBackend
from hnet_launch.backends.torchrun import TorchrunBackend
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment, collect
from hnet_launch.hostfile import read_hostfile
from hnet_launch.job import Backend, Command, Job
from hnet_launch.modes import check_modes
from hnet_launch.preflight import preflight
from hnet_launch.record import LaunchRecord
from hnet_launch.stopping import StopRequests
from hnet_launch.supervise import Outcome, Policy, Run, supervise

EXIT_CODES = {Outcome.FINISHED: 0, Outcome.STOPPED: 1, Outcome.BAD_INPUT: 2, Outcome.FAILED: 1}
TRAIN_MODULE = "hnet.train"


def run(arguments: argparse.Namespace) -> None:
    """Launch; exits with 0 if the run is finished or saved on request, 2 for bad input, else 1."""
    check_modes(arguments)
    config = load_config(RunConfig, arguments.config, arguments.overrides)
    cluster = _cluster(arguments)
    environment = collect(os.environ, arguments.env)
    if cluster.gpu == "cpu":
        environment = environment.with_variables(DS_ACCELERATOR="cpu")
    launch = _Launch(arguments, config, cluster, environment)
    if arguments.slurm:
        launch.submit()
    elif arguments.kubernetes:
        launch.write_manifest()
    elif arguments.dry_run:
        print(launch.command(launch.first_index()).describe(), end="")
    else:
        code = launch.supervise()
        if code:
            raise SystemExit(code)


class _Launch:
    """One run on one cluster."""

    def __init__(
        self, arguments: argparse.Namespace, config: RunConfig, cluster: ClusterConfig, environment: Environment
    ) -> None:
        self.arguments, self.config, self.cluster, self.environment = arguments, config, cluster, environment
        self.output_dir = Path(config.output_dir).expanduser().absolute()
        self.folder = self.output_dir / "launch"
        self.run_file = self.folder / "run.yaml"

    def submit(self) -> None:
        """Write the batch script and hand it to Slurm."""
        arguments, script = self.arguments, self.folder / "job.sbatch"
        options = SlurmOptions(
            name=self.job_name(),
            partition=arguments.partition,
            account=arguments.account,
            time=arguments.time,
            signal_seconds=arguments.signal_seconds,
            cpus_per_task=arguments.cpus_per_task,
            arguments=tuple(arguments.sbatch_arg),
        )
        inside = [sys.executable, "-m", "hnet", "launch", str(self.run_file), "--srun", "--requeue"]
        inside += [f"--nodes={self.cluster.nodes}", f"--gpus-per-node={self.cluster.gpus_per_node}"]
        inside += ["--cpu"] if self.cluster.gpu == "cpu" else []
        inside += [f"--cpus-per-task={arguments.cpus_per_task}"] if arguments.cpus_per_task else []
        inside += [f"--max-restarts={arguments.max_restarts}", f"--stalled-restarts={arguments.stalled_restarts}"]
        inside += [f"--restart-wait={arguments.restart_wait}"]
        inside += [f"--master-port={arguments.master_port}"] if arguments.master_port else []
        inside += ["--no-preflight"] if arguments.no_preflight else []
        inside += ["--preflight-only"] if arguments.preflight_only else []
        log = self.folder / "slurm-%j.log"
        text = batch_script(options, self.cluster, inside, self.environment, folder=Path.cwd(), log=log)
        command = Command(tuple(submit_command(script)), self.environment, {**self.run_text(), script: text})
        if arguments.dry_run:
            print(command.describe(), end="")
            return
        command.write_files()
        job = submit(script, self.environment)
        print(f"submitted job {job}; its log: {str(log).replace('%j', job)}")

    def write_manifest(self) -> None:
        """Write the manifest, and hand it to Kubernetes if asked to."""
        arguments, name = self.arguments, self.job_name().lower()
        if not arguments.image:
            raise ConfigError("--kubernetes needs --image, one that has hnet in it")
        options = KubernetesOptions(
            name=name,
            image=arguments.image,
            kind=arguments.kubernetes,
            namespace=arguments.namespace,
            volumes=tuple(arguments.volume),
            secret=arguments.secret,
            grace_seconds=arguments.signal_seconds,
            max_restarts=arguments.max_restarts,
            preflight=not arguments.no_preflight,
            given=tuple(item.partition("=")[0] for item in arguments.env),
        )
        (run_text,) = self.run_text().values()
        text = manifest(options, self.cluster, run_text, self.config.output_dir, self.environment)
        path = arguments.manifest or Path(f"{name}.yaml")
        if arguments.dry_run:
            argv = ("kubectl", "apply", "-f", str(path)) if arguments.apply else ()
            print(Command(argv, files={path: text}).describe(), end="")
            return
        if self.environment.secrets and not arguments.secret:
            hidden = ", ".join(self.environment.secrets)
            print(
                f"not in the manifest: {hidden}; put them into a Kubernetes secret and give --secret", file=sys.stderr
            )
        Command((), files={path: text}).write_files()
        print(apply(path) if arguments.apply else f"wrote {path}; submit it: kubectl apply -f {path}")

    def supervise(self) -> int:
        """Start, and start again; returns our exit code."""
        with StopRequests() as requests:
            return self._supervise(requests)

    def _supervise(self, requests: StopRequests) -> int:
        arguments, backend = self.arguments, self.backend()
        first = self.first_index()
        self.command(first)  # a missing tool is told before nodes are checked
        if not arguments.no_preflight:
            Command((), files=self.run_text()).write_files()
            with requests.interrupting():
                print(preflight(self.config, self.job(first), backend), flush=True)
        if arguments.preflight_only:
            return 0 if requests.number is None else EXIT_CODES[Outcome.STOPPED]
        record = LaunchRecord(self.output_dir / f"launch{self.share}.json", sys.argv, backend, self.job(first))
        record.save()
        policy = Policy(arguments.max_restarts, arguments.stalled_restarts, arguments.restart_wait)
        if isinstance(backend, TorchrunBackend) and backend.endpoint is not None:
            policy = Policy(max_restarts=0)
        attempt = supervise(
            Run(self.output_dir, self.config.training.steps),
            self.command,
            policy,
            logs=self.logs,
            first_index=first,
            on_attempt=record.add,
            requests=requests,
        )
        was_stopped = attempt.outcome in (Outcome.PREEMPTED, Outcome.STOPPED)
        if was_stopped and arguments.requeue and requeue_this_job():
            print("hnet launch: the job is back in the queue", flush=True)
        return EXIT_CODES.get(attempt.outcome, arguments.preempted_code)

    def command(self, index: int) -> Command:
        """The command of one attempt."""
        command = self.backend().command(self.job(index))
        return Command(
            command.argv,
            command.environment,
            {**self.run_text(), **command.files},
            command.secret_files,
            command.stop_signal,
        )

    def job(self, index: int) -> Job:
        """What every rank runs in one attempt."""
        arguments = self.arguments
        base = DEFAULT_PORT
        if arguments.srun:
            # Jobs may share nodes; their numbers differ.
            base = 20000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 10000
        base = arguments.master_port or base
        # Nodes that are started one by one cannot agree on anything but the first port.
        port = base if arguments.node_rank is not None else base + index % 100
        return Job(TRAIN_MODULE, (str(self.run_file),), self.environment, self.folder, self.logs(index), port)

    def backend(self) -> Backend:
        """Raises ConfigError for options that do not go together."""
        arguments, cluster = self.arguments, self.cluster
        if arguments.srun:
            return SrunBackend(cluster, arguments.cpus_per_task)
        if cluster.hosts:
            if arguments.node_rank is not None and arguments.node_rank >= cluster.nodes:
                raise ConfigError(f"--node-rank {arguments.node_rank}: there are {cluster.nodes} hosts, from 0")
            return DeepSpeedBackend(
                cluster, arguments.launcher, arguments.launcher_args, arguments.master_addr, arguments.node_rank
            )
        if arguments.torchrun:
            if arguments.rdzv_endpoint is None and cluster.nodes > 1:
                raise ConfigError("--torchrun on several nodes needs --rdzv-endpoint HOST:PORT, the same on every node")
            nodes = arguments.nnodes or str(cluster.nodes)
            return TorchrunBackend(
                cluster, nodes, arguments.rdzv_endpoint, arguments.rdzv_id, max_restarts=arguments.max_restarts
            )
        if cluster.nodes > 1:
            raise ConfigError(f"{cluster.nodes} nodes, but no way to them; give --hostfile, --slurm or --torchrun")
        return TorchrunBackend(cluster)

    def run_text(self) -> dict[Path, str]:
        """The resolved run: what every rank and every attempt reads, whatever happens to the user's file meanwhile."""
        return {self.run_file: yaml_text(self.config.model_dump(mode="json"))}

    def logs(self, index: int) -> Path:
        """Where the logs of one attempt go."""
        return self.output_dir / "logs" / f"attempt-{index:03d}{self.share}"

    def first_index(self) -> int:
        """One more than the attempts of this run that there were."""
        names = [path.name for path in (self.output_dir / "logs").glob(f"attempt-*{self.share}")]
        found = [int(match[1]) for name in names if (match := re.match(r"attempt-(\d+)", name))]
        return max(found, default=-1) + 1

    @property
    def share(self) -> str:
        """Names this machine in files where each machine is launched by itself; else empty."""
        if self.arguments.node_rank is not None:
            return f".node-{self.arguments.node_rank}"
        return f".{socket.gethostname().partition('.')[0]}" if self.arguments.rdzv_endpoint else ""

    def job_name(self) -> str:
        """From the output_dir, of letters, digits and dashes."""
        name = self.arguments.job_name or f"hnet-{self.output_dir.name}"
        return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")


def _cluster(arguments: argparse.Namespace) -> ClusterConfig:
    """Machines from the configuration, the hostfile and the options, the later ones first."""
    tree = load_config(ClusterConfig, arguments.cluster).model_dump(mode="json") if arguments.cluster else {}
    if arguments.hostfile is not None:
        hosts = read_hostfile(arguments.hostfile)
        tree |= {"nodes": hosts.nodes, "gpus_per_node": hosts.gpus_per_node, "hosts": list(hosts.hosts)}
    if arguments.slurm or arguments.srun or arguments.torchrun:
        tree.pop("hosts", None)
    if arguments.nodes is not None:
        named = tree.get("hosts", [])
        if named and arguments.nodes > len(named):
            raise ConfigError(f"--nodes {arguments.nodes}: only {len(named)} hosts are named")
        tree |= {"nodes": arguments.nodes, "hosts": named[: arguments.nodes]}
    if arguments.nnodes is not None:
        tree["nodes"] = int(_range(arguments.nnodes)[1])
    if arguments.gpus_per_node is not None:
        tree["gpus_per_node"] = arguments.gpus_per_node
    elif "gpus_per_node" not in tree:
        if not arguments.cpu and (arguments.slurm or arguments.kubernetes):
            mode = "--slurm" if arguments.slurm else "--kubernetes"
            raise ConfigError(f"{mode} needs --gpus-per-node N, a --cluster that says it, or --cpu: nodes are not here")
        num_gpus = 0 if arguments.cpu else _local_gpus()
        tree |= {"gpus_per_node": max(1, num_gpus)} | ({} if num_gpus else {"gpu": "cpu"})
    if arguments.cpu:
        tree["gpu"] = "cpu"
    return load_config(ClusterConfig, tree)


def _local_gpus() -> int:
    """GPUs of this machine that its processes may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        # An empty list, and -1, hide all of them.
        return sum(bool(word.strip()) and not word.strip().startswith("-") for word in visible.split(","))
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())


def _range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most:
        raise ConfigError(f"--nnodes {text}: give N or MIN:MAX, such as 2:4")
    return least, most
