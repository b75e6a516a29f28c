"""The preflight itself: a command on every node through the launcher's own tool, then a small job over all ranks."""

import dataclasses
import json
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from hnet.model.accounting import count_parameters
from hnet.training.config import RunConfig
from hnet_launch.backends.torchrun import TorchrunBackend
from hnet_launch.cluster import ClusterConfig
from hnet_launch.job import Backend, Job
from hnet_launch.preflight.checks import Finding, Needs, PreflightError, judge, judge_bandwidth, table, unreached
from hnet_launch.preflight.fanout import captured, hosts_of, on_every_node, starts_all_nodes
from hnet_launch.preflight.request import Request, find_report

BYTES_PER_PARAMETER = 12
"""Of a checkpoint: the weight and two moments, in fp32."""
SECONDS = 120.0
"""A node or a probe that has not ended by then is not fit."""
PROBE_MODULE = "hnet.distributed.bandwidth"
_RESULT = '{"ranks":'
"""How the probe's line begins, whatever a launcher puts before it."""
_NODE_MODULE = "hnet_launch.preflight.node"


def check_nodes(config: RunConfig, job: Job, backend: Backend, *, patience: float = 60.0) -> list[Finding]:
    """Run every check of a node on every node of the backend, or on this machine where only this one is started.

    `patience`: seconds that nodes wait for each other. Raises UserError if the tool that reaches nodes is missing.
    """
    hosts = hosts_of(backend) or ("localhost",)
    request = Request(
        token=secrets.token_hex(6),
        num_nodes=len(hosts),
        host=hosts[0],
        # torchrun on one machine takes a free port by itself.
        port=None if isinstance(backend, TorchrunBackend) else job.port,
        output_dir=str(Path(config.output_dir).expanduser().absolute()),
        sources=(*config.data.train, *config.data.validation),
        patience=patience,
    )
    argv = [sys.executable, "-m", _NODE_MODULE, request.encode()]
    outputs = on_every_node(argv, job, backend, patience + SECONDS)
    reports = {host: find_report(output) for host, output in outputs.items()}
    answered = {host: report for host, report in reports.items() if report is not None}
    lost = [unreached(host, _last_line(outputs[host])) for host, report in reports.items() if report is None]
    return lost + (judge(answered, _needs(config, request, backend.cluster)) if answered else [])


def check_bandwidth(job: Job, backend: Backend, *, seconds: float = SECONDS) -> list[Finding]:
    """Start the probe on every rank, exactly as the job will be started, and judge what it measured."""
    probe = dataclasses.replace(job, module=PROBE_MODULE, arguments=(), logs=None)
    command = backend.command(probe)
    command.write_files()
    try:
        output = captured(list(command.argv), {**os.environ, **command.environment.all()}, job.folder, seconds)
    finally:
        command.remove_secrets()
    for line in output.splitlines():
        _, mark, text = line.partition(_RESULT)
        if mark:
            measured = json.loads(mark + text)
            return judge_bandwidth(measured["pairs"], measured["all_reduce"], measured["ranks"])
    remedy = "the job would fail in the same way: its ranks must reach each other on any port"
    return [Finding("all-reduce", "all ranks", f"no result: {_last_line(output)}", remedy)]


def preflight(config: RunConfig, job: Job, backend: Backend) -> str:
    """All checks: nodes first, and between ranks only if nodes are fit. Returns the table of what was found.

    Raises PreflightError, whose message is that table, if a check failed; UserError if a tool is missing.
    """
    findings = check_nodes(config, job, backend)
    if starts_all_nodes(backend) and backend.cluster.world_size > 1 and all(finding.passed for finding in findings):
        findings += check_bandwidth(job, backend)
    return conclude(findings)


def conclude(findings: Sequence[Finding]) -> str:
    """The table of findings. Raises PreflightError, whose message is that table, if a check failed."""
    text = table(findings)
    failed = sum(not finding.passed for finding in findings)
    if failed:
        plural = "" if failed == 1 else "s"
        raise PreflightError(f"the preflight found {failed} problem{plural}, nothing was started\n{text}")
    return text


def _needs(config: RunConfig, request: Request, cluster: ClusterConfig) -> Needs:
    checkpoint = BYTES_PER_PARAMETER * count_parameters(config.model)
    # One more than are kept: a new checkpoint is complete before the oldest goes.
    kept = config.training.keep_checkpoints + 1
    num_gpus = 0 if cluster.gpu == "cpu" else cluster.gpus_per_node
    return Needs(request.port, checkpoint * kept, num_gpus, request.output_dir)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # pdsh ends with the exit code of ssh, which has said why.
    lines = [line for line in lines if "ssh exited with exit code" not in line] or lines
    return lines[-1][-300:] if lines else "no output"
