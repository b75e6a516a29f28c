"""What a measurement was made on and with."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import hnet

PACKAGES = ("torch", "numpy", "accelerate", "deepspeed", "datasets", "tokenizers")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Device, threads, versions and commit, as JSON-serialisable data; unknown things are None."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "hnet": hnet.__version__,
        "commit": commit(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def device_name(device: torch.device) -> str:
    """The vendor's name of an accelerator, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def commit() -> str | None:
    """Commit of the working tree that `hnet` is imported from, `-dirty` with changes; None outside a repository."""
    root = Path(hnet.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(describe, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
