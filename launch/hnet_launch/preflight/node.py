"""What runs on every node: `python -m hnet_launch.preflight.node REQUEST NODE` looks around and prints a report."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hnet import __version__
from hnet.errors import UserError
from hnet_launch.preflight.meeting import Client, serve
from hnet_launch.preflight.request import GpuReport, NodeReport, Request

PACKAGES = (
    "torch", "deepspeed", "accelerate", "numpy", "safetensors", "datasets", "transformers", "triton",
    "flash-attn", "flash-linear-attention", "mamba-ssm", "causal-conv1d", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip
"""What a rank's arithmetic or its talk with others depends on."""

_GPU_FIELDS = "name,driver_version,ecc.errors.uncorrected.volatile.total,remapped_rows.pending,memory.used"
_HARDWARE_XID = re.compile(r"NVRM: Xid \(.*?\): (48|64|74|79|95|119|120)\b.*")
"""Errors of the driver that do not come from a program: memory that cannot be repaired, NVLink, a GPU off its bus, its
own processor. NVIDIA, "XID Errors"."""
_SETTLE_SECONDS = 5.0
"""How long a file of another node may take to appear: network file systems cache their folders."""


def main() -> int:
    """Report on this node. Errors are part of the report."""
    request, node = Request.decode(sys.argv[1]), _number(sys.argv[2:])
    print("\n".join(examine(request, node).lines()), flush=True)
    return 0


def _number(words: list[str]) -> int:
    told = (os.environ.get(name) for name in ("SLURM_NODEID", "OMPI_COMM_WORLD_RANK"))
    return int(words[0] if words else next((number for number in told if number), "0"))


def examine(request: Request, node: int) -> NodeReport:
    """Everything about this node; the part that needs the others takes at most `request.patience` seconds."""
    found: dict[str, Any] = {"versions": versions(), **look_at_sources(request), **look_at_gpus()}
    folder = Path(request.output_dir).expanduser().absolute() / f".preflight-{request.token}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(node)).write_text(socket.gethostname())
        found["free_bytes"] = shutil.disk_usage(folder).free
    except OSError as error:
        found["folder_error"] = f"{error.strerror or error}: {error.filename or folder}"
    found |= _meet(request, node, folder)
    (folder / str(node)).unlink(missing_ok=True)
    # Only the last node finds it empty; and where it could not be made there is none.
    with contextlib.suppress(OSError):
        folder.rmdir()
    return NodeReport(node=node, host_name=socket.gethostname(), **found)


def _meet(request: Request, node: int, folder: Path) -> dict[str, Any]:
    """The part that needs the other nodes: the connection, the clock, and whose files are seen."""
    if request.port is None:
        return {"seen": _others(folder, 1)}
    found: dict[str, Any] = {}
    server = None
    try:
        if node == 0:
            server = serve(request.port, request.num_nodes, request.patience)
        with Client(request.host, request.port, request.patience) as client:
            found["clock_seconds"], found["clock_uncertainty"] = client.clock()
            client.wait("written")
            found["seen"] = _others(folder, request.num_nodes)
            client.wait("seen")
    except OSError as error:
        found["connection_error"] = str(error.strerror or error)
    if server is not None:
        # Ends by itself; other nodes may still need its answers.
        server.join()
    return found


def _others(folder: Path, num_nodes: int) -> tuple[int, ...]:
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        seen = tuple(sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()))
        if len(seen) >= num_nodes or time.monotonic() > deadline:
            return seen
        time.sleep(0.2)


def versions() -> dict[str, str]:
    """Versions of Python, hnet and `PACKAGES`, and a checksum of the code of hnet, its kernels and the launcher."""
    found = {"python": platform.python_version(), "hnet-lm": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    found["code"] = _code_checksum()
    return found


def _code_checksum() -> str:
    import hnet
    import hnet_kernels
    import hnet_launch

    digest = hashlib.sha256()
    for package in (hnet, hnet_kernels, hnet_launch):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root.parent)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def look_at_sources(request: Request) -> dict[str, Any]:
    """Open every local data source, and read its first and last document."""
    from hnet.data.sources import open_source
    from hnet.data.streamed import StreamedSource

    found, errors = {}, {}
    for config in request.sources:
        if is_on_hub(config.path):
            found[config.path] = "a dataset on the Hub, opened when the run starts"
            continue
        try:
            source = open_source(config)
            if isinstance(source, StreamedSource):
                found[config.path] = "streamed"
                continue
            length = len(source)
            sample = hashlib.sha256(bytes(source.read(0)) + b"\0" + bytes(source.read(length - 1))).hexdigest()[:12]
            found[config.path] = f"{length:,} documents, {source.total_bytes():,} bytes, first and last {sample}"
        except (UserError, OSError) as error:
            errors[config.path] = str(error)
    return {"sources": found, "source_errors": errors}


def is_on_hub(path: str) -> bool:
    """Whether a source can only be a dataset's name: it has at most one slash, and no such path is here or could be."""
    if path.startswith(("sample:", "/", ".", "~")) or any(character in path for character in "*?["):
        return False
    return path.count("/") <= 1 and not Path(path).suffix and not Path(path).exists()


def look_at_gpus() -> dict[str, Any]:
    """What nvidia-smi and the kernel's log say about GPUs; nothing where there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return {"gpu_error": "nvidia-smi did not answer in 60 s: the driver hangs"}
    if done.returncode:
        return {"gpu_error": (done.stdout + done.stderr).strip() or f"nvidia-smi ended with {done.returncode}"}
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    gpus = [GpuReport(**dict(zip(GpuReport.model_fields, row, strict=True))) for row in rows]
    return {"gpus": gpus, "xids": _hardware_xids()}


def _hardware_xids() -> tuple[str, ...]:
    """From the kernel's log, where we may read it."""
    if shutil.which("dmesg") is None:
        return ()
    log = subprocess.run(["dmesg"], capture_output=True, text=True, errors="replace", timeout=60).stdout
    return tuple(match[0][:200] for match in _HARDWARE_XID.finditer(log))[-4:]


if __name__ == "__main__":
    sys.exit(main())
