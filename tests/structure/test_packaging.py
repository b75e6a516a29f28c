"""The three packages and the configurations work from a wheel, an editable install, a bare checkout and torchrun."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["hnet", "kernels", "launch", "configs"]
FILES = ["setup.py", "pyproject.toml", "README.md", "LICENSE"]

# What a user of each kind of installation sees; an editable install of this very checkout must not answer instead.
USE = """
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "_editable_" not in getattr(finder, "__module__", "")]
for name in [name for name in sys.modules if name.startswith("__editable__")]:
    del sys.modules[name]
{setup}
import hnet, hnet_kernels, hnet_launch
from hnet.config import config_names, find_config, library_root
from hnet.data.sample_text import open_sample
print(hnet.__file__, hnet_kernels.__file__, hnet_launch.__file__, library_root(), sep="\\n")
assert find_config("runs", "quickstart").is_file() and "hnet_1stage_L" in config_names("models")
assert open_sample("train").total_bytes() > 100_000
model = hnet.build("hnet_tiny")
print(sum(parameter.numel() for parameter in model.parameters()))
"""


def _run(command: Sequence[str | Path], cwd: Path, path: Sequence[Path] = (), timeout: int = 300) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads: setuptools leaves folders of its own behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--quiet", "--wheel-dir", out]
    _run([sys.executable, "-m", "pip", "wheel", *options, "."], cwd=checkout)
    (path,) = out.glob("hnet_lm-*.whl")
    return path


def test_the_wheel_holds_every_package_and_all_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hnet").rglob("*.py")}
    for folder in ("kernels", "launch"):
        sources |= {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}
    sources |= {f"hnet_{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "hnet" / "data" / "sample").iterdir()}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "hnet").rglob("*.html")}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "hnet" / "segmentation").glob("*.txt")}
    sources |= {"hnet/py.typed", "hnet_kernels/py.typed", "hnet_launch/py.typed"}
    assert not sources - names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"hnet", "hnet_kernels", "hnet_launch", "hnet_configs"}
    (licence,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
    archive = zipfile.ZipFile(wheel)
    assert "Apache License" in archive.read(licence).decode()
    assert "hnet = hnet.cli:main" in archive.read(entry_points).decode()


def test_the_wheel_works(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    out = _run([sys.executable, "-c", USE.format(setup="")], cwd=tmp_path, path=[site]).splitlines()
    assert all(Path(line).is_relative_to(site) for line in out[:4])
    assert Path(out[3]) == site / "hnet_configs"
    assert int(out[4]) > 100_000
    assert "example:" in _run([sys.executable, "-m", "hnet", "train", "--help"], cwd=tmp_path, path=[site])


def test_an_editable_install_works(checkout: Path, tmp_path: Path) -> None:
    build = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    _run([sys.executable, "-c", build, tmp_path], cwd=checkout)
    (editable,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(editable).extractall(site)
    setup = f"import site; sys.path.insert(0, {str(site)!r}); site.addsitedir({str(site)!r})"
    out = _run([sys.executable, "-P", "-c", USE.format(setup=setup)], cwd=tmp_path).splitlines()
    assert [Path(line) for line in out[:4]] == [
        checkout / "hnet" / "__init__.py",
        checkout / "kernels" / "hnet_kernels" / "__init__.py",
        checkout / "launch" / "hnet_launch" / "__init__.py",
        checkout / "configs",
    ]


def test_a_bare_checkout_works_under_pytest_and_torchrun(checkout: Path) -> None:
    shutil.copy(ROOT / "constraints.txt", checkout)
    (checkout / "tests").mkdir()
    (checkout / "tests" / "test_bare.py").write_text(
        "import hnet, hnet_kernels, hnet_launch\n"
        "from pathlib import Path\n"
        "from hnet.config import find_config\n"
        "def test_paths():\n"
        "    root = Path(__file__).parents[1]\n"
        "    for module in (hnet, hnet_kernels, hnet_launch):\n"
        "        assert Path(module.__file__).is_relative_to(root)\n"
        "    assert find_config('models', 'hnet_tiny').is_relative_to(root / 'configs')\n"
    )
    out = _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_bare.py"], cwd=checkout)
    assert "1 passed" in out
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    out = _run([*torchrun, "-m", "hnet.train", "--help"], cwd=checkout, path=[checkout / "kernels"])
    assert "key.path=value" in out


def test_type_checkers_find_the_three_packages() -> None:
    pytest.importorskip("mypy", reason="mypy comes with the [dev] extra")
    modules = ["-m", "hnet.errors", "-m", "hnet_kernels.packed", "-m", "hnet_launch"]
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--follow-imports", "silent"]
    assert "no issues found in 3 source files" in _run([*command, *modules], cwd=ROOT)
