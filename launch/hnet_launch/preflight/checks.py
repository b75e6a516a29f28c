"""Verdicts on the reports of all nodes: pure functions, one per check."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from hnet.errors import UserError
from hnet_launch.preflight.request import GpuReport, NodeReport

MOST_CLOCK_SECONDS = 2.0
"""Clocks further apart make logs of ranks unreadable, and files on a shared disk newer than now."""
MOST_MEMORY_USED_MIB = 2048
"""A GPU without a process of somebody shows some hundred MiB."""
SLOW_LINK = 0.1
"""A pair of nodes below this share of the median's bandwidth is slow: a bad cable, or the wrong network."""
LEAST_PAIRS = 3
"""Fewer pairs have no median worth the name."""


class PreflightError(UserError):
    """A node that is not fit for the job; the message is the table of what was found."""


@dataclass(frozen=True)
class Finding:
    """One check on one host."""

    check: str
    host: str
    detail: str
    """What was found; for a failed check, the cause."""
    remedy: str = ""
    """What to do; empty if the check passed."""

    @property
    def passed(self) -> bool:
        return not self.remedy


@dataclass(frozen=True)
class Needs:
    """What a run needs of every node."""

    port: int | None
    free_bytes: int
    """Of the output folder: what the checkpoints that are kept take."""
    gpus_per_node: int
    output_dir: str


Reports = Mapping[str, NodeReport]


def judge(reports: Reports, needs: Needs) -> list[Finding]:
    """All checks on all hosts. `reports` is in the order of the nodes; the first one is what others are compared to."""
    checks: list[Callable[[Reports, Needs], Iterator[Finding]]] = [_versions, _port, _clock, _folder, _data, _gpus]
    return [finding for check in checks for finding in check(reports, needs)]


def unreached(host: str, cause: str) -> Finding:
    """A host whose command did not report."""
    return Finding(
        "reachable", host, f"no report: {cause}", f"try `ssh {host} true` from here, and hnet's Python there"
    )


def _versions(reports: Reports, _: Needs) -> Iterator[Finding]:
    first_host, first = next(iter(reports.items()))
    for host, report in reports.items():
        different = {
            name: (found, first.versions.get(name, "none"))
            for name, found in report.versions.items()
            if found != first.versions.get(name, "none")
        }
        if not different:
            version = report.versions
            detail = f"hnet {version['hnet-lm']} (code {version['code']}), torch {version['torch']}"
            yield Finding("versions", host, f"{detail}, deepspeed {version['deepspeed']}, python {version['python']}")
            continue
        words = "; ".join(
            f"{name} {found}, on {first_host} {expected}" for name, (found, expected) in different.items()
        )
        packages = " ".join(f"{name}=={v}" for name, (_, v) in different.items() if name not in ("code", "python"))
        remedy = (
            f"on {host}: pip install {packages}" if packages else f"bring the code on {host} to that of {first_host}"
        )
        yield Finding("versions", host, words, remedy)


def _port(reports: Reports, needs: Needs) -> Iterator[Finding]:
    first_host = next(iter(reports))
    for host, report in reports.items() if needs.port is not None else ():
        if report.connection_error is None:
            yield Finding("port", host, f"{first_host}:{needs.port} reached")
        elif host == first_host and "in use" in report.connection_error:
            remedy = f"end what listens there (`ss -ltnp 'sport = {needs.port}'`), or choose another port"
            yield Finding("port", host, f"{host}:{needs.port}: {report.connection_error}", remedy)
        else:
            remedy = (
                f"let {host} reach every port of {first_host}: firewall, security group, or what its name resolves to"
            )
            yield Finding("port", host, f"{first_host}:{needs.port}: {report.connection_error}", remedy)


def _clock(reports: Reports, _: Needs) -> Iterator[Finding]:
    first_host = next(iter(reports))
    for host, report in reports.items():
        if report.clock_seconds is None:
            continue
        ahead = abs(report.clock_seconds) - report.clock_uncertainty
        if ahead <= MOST_CLOCK_SECONDS:
            yield Finding("clock", host, f"within {MOST_CLOCK_SECONDS:g} s of {first_host}")
            continue
        direction = "ahead of" if report.clock_seconds > 0 else "behind"
        cause = f"{abs(report.clock_seconds):.1f} s {direction} {first_host}; allowed: {MOST_CLOCK_SECONDS:g} s"
        yield Finding("clock", host, cause, f"synchronise the clock of {host}: `chronyc makestep`")


def _folder(reports: Reports, needs: Needs) -> Iterator[Finding]:
    by_node = {report.node: host for host, report in reports.items()}
    views = Counter(report.seen for report in reports.values() if report.connection_error is None)
    # Where nodes disagree, the few are taken for the wrong ones; of equally many, those unlike the first node.
    usual = views.most_common(1)[0][0] if views else ()
    for host, report in reports.items():
        unseen = [by_node[node] for node in usual if node in by_node and node not in report.seen]
        if report.folder_error is not None:
            yield Finding("output_dir", host, report.folder_error, f"make {needs.output_dir} writable on {host}")
        elif unseen and report.connection_error is None:
            cause = f"{needs.output_dir} here lacks files that {', '.join(unseen)} wrote: not one shared folder"
            yield Finding("output_dir", host, cause, "choose an output_dir on a file system that all nodes mount")
        elif report.free_bytes < needs.free_bytes:
            cause = f"{_size(report.free_bytes)} free, checkpoints take {_size(needs.free_bytes)}"
            remedy = "free some, choose another output_dir, or lower training.keep_checkpoints"
            yield Finding("output_dir", host, cause, remedy)
        else:
            shared = "" if len(reports) == 1 else ", shared"
            yield Finding("output_dir", host, f"writable{shared}, at least {_size(needs.free_bytes)} free")


def _data(reports: Reports, _: Needs) -> Iterator[Finding]:
    first_host, first = next(iter(reports.items()))
    for host, report in reports.items():
        failed = False
        for path, error in report.source_errors.items():
            failed = True
            yield Finding("data", host, error, f"copy or mount {path} on {host}")
        for path, found in report.sources.items():
            expected = first.sources.get(path, found)
            if found != expected:
                failed = True
                cause = f"{path}: {found}; on {first_host}: {expected}"
                yield Finding("data", host, cause, f"copy {path} from {first_host}, or mount one folder on both")
        if not failed and report.sources:
            sources = "; ".join(f"{path}: {found}" for path, found in report.sources.items())
            yield Finding("data", host, sources)


def _gpus(reports: Reports, needs: Needs) -> Iterator[Finding]:
    first_host, first = next(iter(reports.items()))
    for host, report in reports.items():
        if report.gpu_error is not None:
            yield Finding("gpus", host, report.gpu_error, f"repair the driver of {host}, or leave the host out")
            continue
        if not report.gpus and not first.gpus and needs.gpus_per_node:
            cause = f"no GPU and no nvidia-smi, the job starts {needs.gpus_per_node} ranks with one each"
            yield Finding("gpus", host, cause, f"install the driver on {host}, or compute on the CPU: --cpu")
            continue
        if not report.gpus and not first.gpus:
            yield Finding("gpus", host, "no GPU: ranks compute on the CPU")
            continue
        problems = list(_gpu_problems(report.gpus, first.gpus, first_host, needs.gpus_per_node))
        problems += [(xid, f"restart {host} and test its GPUs, or leave the host out") for xid in report.xids]
        if problems:
            causes, remedies = zip(*problems, strict=True)
            yield Finding("gpus", host, "; ".join(causes), "; ".join(dict.fromkeys(remedies)))
        else:
            yield Finding("gpus", host, f"{len(report.gpus)} x {report.gpus[0].name}, driver {report.gpus[0].driver}")


def _gpu_problems(
    gpus: Sequence[GpuReport], expected: Sequence[GpuReport], first_host: str, least: int
) -> Iterator[tuple[str, str]]:
    """Cause and remedy of everything that is wrong with a host's GPUs."""
    if len(gpus) < least:
        yield f"{len(gpus)} GPUs, the job starts {least} ranks", "correct the slots of the hostfile, or the host"
    for number, gpu in enumerate(gpus):
        if gpu.uncorrected_errors.isdecimal() and int(gpu.uncorrected_errors):
            yield (
                f"GPU {number}: {gpu.uncorrected_errors} uncorrected memory errors",
                "reset the GPU or leave the host out",
            )
        if gpu.pending_repair.lower() in ("yes", "1"):
            yield f"GPU {number}: memory rows wait to be remapped", "reset the GPU: `nvidia-smi --gpu-reset`"
        if gpu.memory_used_mib.isdecimal() and int(gpu.memory_used_mib) > MOST_MEMORY_USED_MIB:
            yield f"GPU {number}: {gpu.memory_used_mib} MiB in use", "end the process that `nvidia-smi` shows"
    for what in ("name", "driver"):
        ours, theirs = ({getattr(gpu, what) for gpu in group} for group in (gpus, expected))
        if ours != theirs:
            yield f"{what} {', '.join(sorted(ours))}, on {first_host} {', '.join(sorted(theirs))}", "use equal hosts"


def judge_bandwidth(measured: Mapping[str, float], all_reduce: float, num_ranks: int) -> list[Finding]:
    """Verdicts on GB/s by pair of hosts ("node1 - node2") and of the sum over all ranks."""
    median = sorted(measured.values())[len(measured) // 2] if measured else 0.0
    findings = [Finding("all-reduce", f"{num_ranks} ranks", f"{all_reduce:.3g} GB/s")]
    for pair, speed in measured.items():
        slow = len(measured) >= LEAST_PAIRS and speed < SLOW_LINK * median
        remedy = "look at the cables and adapters of both, and which network NCCL_SOCKET_IFNAME names" if slow else ""
        detail = f"{speed:.3g} GB/s" + (f", the median of all pairs is {median:.3g}" if slow else "")
        findings.append(Finding("bandwidth", pair, detail, remedy))
    return findings


def table(findings: Sequence[Finding]) -> str:
    """A line per check and outcome; hosts with the same outcome share it."""
    rows: list[tuple[str, str, str, str]] = []
    for check, group in groupby(findings, key=lambda finding: finding.check):
        outcomes: dict[tuple[str, str], list[str]] = {}
        for finding in group:
            outcomes.setdefault((finding.detail, finding.remedy), []).append(finding.host)
        for (detail, remedy), hosts in outcomes.items():
            text = f"{detail}\n{remedy}" if remedy else detail
            rows.append(("FAILED" if remedy else "ok", check, _names(hosts), text))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        head = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        cause, _, remedy = row[3].partition("\n")
        lines.append(f"{head}  {cause}")
        if remedy:
            lines.append(f"{' ' * len(head)}  -> {remedy}")
    return "\n".join(lines)


def _names(hosts: Sequence[str]) -> str:
    return ", ".join(hosts) if len(hosts) <= 4 else f"{hosts[0]} ... {hosts[-1]} ({len(hosts)})"


def _size(num_bytes: int) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"
