"""Jobs of Kubernetes: the manifest of a JobSet or a PyTorchJob whose pods run `hnet launch --torchrun`."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from hnet.errors import ConfigError, UserError
from hnet_launch.cluster import ClusterConfig
from hnet_launch.environment import Environment
from hnet_launch.job import require_tool

KINDS = ("jobset", "pytorchjob")
PREEMPTED_CODE = 75
"""A pod that was told to stop, and saved, must not count as one that has finished."""

_PORT = 29400
_RUN_FOLDER = "/etc/hnet"
_OF_THIS_MACHINE = re.compile(r"PATH|PYTHONPATH|.*_(HOME|DIR|PATH|CACHE)")
"""Places on the machine that submits; the image has its own."""
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")


@dataclass(frozen=True)
class KubernetesOptions:
    """What a manifest needs besides nodes and GPUs."""

    name: str
    image: str
    kind: str = "jobset"
    namespace: str | None = None
    volumes: tuple[str, ...] = ()
    """`CLAIM:/mount/path` of claims that every pod mounts; the first is the working folder."""
    secret: str | None = None
    """A Kubernetes secret whose entries become variables."""
    grace_seconds: int = 120
    """How long a pod that is taken away has to save."""
    max_restarts: int = 10
    preflight: bool = True
    given: tuple[str, ...] = ()
    """Variables that the user names, which pods get also where they are places on this machine."""


class _Text(str):
    """A text that is written as a block, line by line."""


class _Dumper(yaml.SafeDumper):
    """Blocks for texts of several lines, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Text, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|"))


def manifest(
    options: KubernetesOptions, cluster: ClusterConfig, run_text: str, output_dir: str, environment: Environment
) -> str:
    """YAML of a ConfigMap with the run, and of the job.

    Raises ConfigError for a name that Kubernetes does not take, and for an output_dir outside every volume, which
    would be gone with its pod.
    """
    if not _NAME.fullmatch(options.name):
        raise ConfigError(f"--job-name: got '{options.name}'; allowed: a-z, 0-9 and dashes, at most 52, a letter first")
    _check_dns("--namespace", options.namespace, dots=False)
    _check_dns("--secret", options.secret)
    mounts = _mounts(options.volumes)
    folder = PurePosixPath(next(iter(mounts.values()))) / output_dir
    if not any(folder.is_relative_to(path) for path in mounts.values()) or ".." in folder.parts:
        raise ConfigError(
            f"output_dir {output_dir} is in none of the volumes ({', '.join(mounts.values())}): it would be gone with "
            "its pod; choose one inside, or a relative one"
        )
    head = {"metadata": {"name": options.name} | ({"namespace": options.namespace} if options.namespace else {})}
    config = {"apiVersion": "v1", "kind": "ConfigMap", **head, "data": {"run.yaml": _Text(run_text)}}
    make = _jobset if options.kind == "jobset" else _pytorchjob
    job = make(options, cluster, head, _Pods(options, cluster, environment, mounts))
    documents = [yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=120) for document in (config, job)]
    return "---\n".join(documents)


def apply(path: Path) -> str:
    """Hand a manifest to Kubernetes; returns what kubectl says. Raises UserError if there is none, or if it refuses."""
    require_tool("kubectl", f"install it, or where it is run: kubectl apply -f {path}")
    done = subprocess.run(["kubectl", "apply", "-f", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"kubectl refused {path}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


@dataclass(frozen=True)
class _Pods:
    options: KubernetesOptions
    cluster: ClusterConfig
    environment: Environment
    mounts: Mapping[str, str]

    def spec(self, container: str, endpoint: str) -> dict[str, Any]:
        """One pod a node; all of them the same."""
        options, cluster = self.options, self.cluster
        arguments = [f"--nodes={cluster.nodes}", f"--gpus-per-node={cluster.gpus_per_node}"]
        arguments += [f"--rdzv-endpoint={endpoint}:{_PORT}", f"--rdzv-id={options.name}"]
        arguments += ["--cpu"] if cluster.gpu == "cpu" else []
        arguments += [] if options.preflight else ["--no-preflight"]
        command = ["hnet", "launch", f"{_RUN_FOLDER}/run.yaml", "--torchrun", *arguments]
        variables = {
            name: value
            for name, value in self.environment.variables.items()
            if name in options.given or not _OF_THIS_MACHINE.fullmatch(name)
        }
        body: dict[str, Any] = {
            "name": container,
            "image": options.image,
            # Restarts are Kubernetes': all pods together, and on another node where one is gone.
            "command": [*command, "--max-restarts=0", f"--preempted-code={PREEMPTED_CODE}"],
            "workingDir": next(iter(self.mounts.values())),
            "env": [{"name": name, "value": value} for name, value in variables.items()],
        }
        if options.secret:
            body["envFrom"] = [{"secretRef": {"name": options.secret}}]
        if cluster.gpu != "cpu":
            body["resources"] = {"limits": {"nvidia.com/gpu": cluster.gpus_per_node}}
        body["ports"] = [{"name": "rendezvous", "containerPort": _PORT}]
        volumes = [(f"volume-{index}", claim, path) for index, (claim, path) in enumerate(self.mounts.items())]
        body["volumeMounts"] = [
            {"name": "run", "mountPath": _RUN_FOLDER, "readOnly": True},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": name, "mountPath": path} for name, _, path in volumes),
        ]
        return {
            "terminationGracePeriodSeconds": options.grace_seconds,
            "containers": [body],
            "volumes": [
                {"name": "run", "configMap": {"name": options.name}},
                # NCCL and data loading share memory; a container has 64 MiB unless told otherwise.
                {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                *({"name": name, "persistentVolumeClaim": {"claimName": claim}} for name, claim, _ in volumes),
            ],
        }


def _jobset(options: KubernetesOptions, cluster: ClusterConfig, head: dict[str, Any], pods: _Pods) -> dict[str, Any]:
    """Any pod's failure restarts all of them; exit code 2, bad input, ends the job."""
    bad_input = {"action": "FailJob", "onExitCodes": {"containerName": "train", "operator": "In", "values": [2]}}
    # The first pod of the only job; `head` names the set, which is also its subdomain.
    endpoint = f"{options.name}-node-0-0.{options.name}"
    job = {
        "parallelism": cluster.nodes,
        "completions": cluster.nodes,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [bad_input]},
        "template": {"spec": {"restartPolicy": "Never", **pods.spec("train", endpoint)}},
    }
    rule = {"name": "bad-input", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        **head,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {"maxRestarts": options.max_restarts, "rules": [rule]},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _pytorchjob(
    options: KubernetesOptions, cluster: ClusterConfig, head: dict[str, Any], pods: _Pods
) -> dict[str, Any]:
    """A failed pod is restarted in its place; the others fail with it and meet it again."""
    # The operator adds up the restarts of all pods, and one failure restarts each of them.
    limit = options.max_restarts * cluster.nodes
    # The operator knows the container by its name, and gives each replica a service of the pod's name.
    replica = {
        "restartPolicy": "OnFailure",
        "template": {"spec": pods.spec("pytorch", f"{options.name}-master-0")},
    }
    replicas = {"Master": {"replicas": 1, **replica}}
    if cluster.nodes > 1:
        replicas["Worker"] = {"replicas": cluster.nodes - 1, **replica}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        **head,
        "spec": {
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": limit},
            "pytorchReplicaSpecs": replicas,
        },
    }


def _mounts(volumes: tuple[str, ...]) -> dict[str, str]:
    mounts: dict[str, str] = {}
    for volume in volumes:
        claim, separator, path = volume.partition(":")
        if not separator or not claim or not path.startswith("/"):
            raise ConfigError(f"--volume: got '{volume}'; give CLAIM:/mount/path, such as checkpoints:/data")
        _check_dns("--volume", claim)
        if claim in mounts or path.rstrip("/") in (taken.rstrip("/") for taken in mounts.values()):
            raise ConfigError(f"--volume: got '{volume}' after another of that claim or path; give each of them once")
        mounts[claim] = path
    if not mounts:
        raise ConfigError("--kubernetes needs --volume CLAIM:/mount/path, a claim that all pods share: for output_dir")
    return mounts


def _check_dns(option: str, name: str | None, *, dots: bool = True) -> None:
    """Raises ConfigError for what Kubernetes does not take as a name."""
    parts = [] if name is None else name.split(".") if dots else [name]
    if len(name or "") > 253 or not all(_DNS_LABEL.fullmatch(part) for part in parts):
        allowed = "a-z, 0-9 and dashes, at most 63" + (", or several such with dots between" if dots else "")
        raise ConfigError(f"{option}: got the name '{name}'; allowed: {allowed}")
