"""Every module imports alone, `import hnet` is light, and names that belong to one room stay in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"hnet": ROOT, "hnet_kernels": ROOT / "kernels", "hnet_launch": ROOT / "launch"}


def _sources() -> list[Path]:
    return sorted(path for name, above in PACKAGES.items() for path in (above / name).rglob("*.py"))


def _module(path: Path) -> str:
    above = next(above for name, above in PACKAGES.items() if (above / name) in path.parents)
    parts = path.relative_to(above).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _run(code: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, PACKAGES.values()))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=300)


# Third-party packages load once in the parent; each module of ours then loads in a fork that has seen none of ours.
_IMPORT_EACH_ALONE = """
import importlib, os, sys, traceback
import torch, numpy, pydantic, yaml, rich.console, rich.progress, safetensors.torch, matplotlib, accelerate, datasets
assert not [name for name in sys.modules if name.partition(".")[0] in ("hnet", "hnet_kernels", "hnet_launch")]
failed = []
for name in {modules!r}:
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException:
            print(name, file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print("failed:" + " ".join(failed))
"""


def test_every_module_imports_alone() -> None:
    modules = [_module(path) for path in _sources()]
    assert {"hnet", "hnet.cli", "hnet.model.stage", "hnet_kernels.ema.reference", "hnet_launch"} <= set(modules)
    result = _run(_IMPORT_EACH_ALONE.format(modules=modules))
    assert result.stdout.splitlines()[-1] == "failed:", result.stderr


@pytest.mark.parametrize(
    "modules",
    [
        "hnet",
        "hnet.cli",
        "hnet.config",
        "hnet.model.config",
        "hnet.model.accounting",
        "hnet.data.config",
        "hnet.training.config",
        "hnet_launch",
        "hnet_launch.commands",
        "hnet_launch.plan.planner",
        "hnet_launch.plan.report",
        "hnet_launch.rank",
        "hnet_launch.supervise",
    ],
)
def test_light_modules_load_no_torch(modules: str) -> None:
    heavy = ["torch", "deepspeed", "accelerate", "datasets", "matplotlib", "numpy"]
    result = _run(f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])")
    assert result.stdout.strip() == "[]", result.stderr


def test_public_names_of_hnet_load_when_used() -> None:
    result = _run(
        "import hnet; assert {'build', 'load', 'generate', '__version__'} <= set(dir(hnet)); "
        "print(hnet.build.__module__, hnet.load.__module__, hnet.generate.__module__)"
    )
    assert result.stdout.split() == ["hnet.model.loading", "hnet.model.loading", "hnet.inference.generation"]


@pytest.mark.parametrize(
    ("pattern", "rooms"),
    [
        (r"torch\.distributed|torch import distributed", ["hnet/distributed/"]),
        (r"\bos\.environ|\bgetenv\(|os import .*environ", ["hnet/distributed/", "launch/hnet_launch/", "hnet/cli.py"]),
        (r"\bpickle\b|weights_only=False", []),
    ],
)
def test_names_stay_in_their_rooms(pattern: str, rooms: list[str]) -> None:
    outside = []
    for path in _sources():
        where = path.relative_to(ROOT).as_posix()
        if any(where.startswith(room) for room in rooms):
            continue
        lines = path.read_text().splitlines()
        outside += [f"{where}:{number}: {line}" for number, line in enumerate(lines, 1) if re.search(pattern, line)]
    assert not outside, "\n".join(outside)


def test_import_contracts_hold() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with the [dev] extra")
    command = [
        str(Path(sys.executable).with_name("lint-imports")),
        "--config",
        str(ROOT / "pyproject.toml"),
        "--no-cache",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PACKAGES.values()))}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr
    assert "0 broken" in result.stdout
