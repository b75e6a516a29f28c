"""Sizes, documents and words: what keeps the house readable."""

import ast
import importlib
import inspect
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ["hnet", "kernels", "launch"]
MOST_LINES = 400
MOST_FUNCTION_LINES = 60

TEXT_SUFFIXES = {".py", ".md", ".yaml", ".toml", ".txt", ".json", ".html", ".cfg", ".sh", ""}


def _python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py") if ".venv" not in path.parts)


def _tracked_texts() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT_SUFFIXES and path.is_file() and "sample" not in path.parts]


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in [*_python_files(*FOLDERS, "tests")]}
    assert not [f"{path.relative_to(ROOT)}: {length}" for path, length in lengths.items() if length > MOST_LINES]


def test_functions_are_short() -> None:
    long = []
    for path in _python_files(*FOLDERS, "tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_FUNCTION_LINES:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length}")
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is() -> None:
    silent = [
        path.relative_to(ROOT)
        for path in _python_files(*FOLDERS)
        # The __init__.py of an operation may be empty: its README.md says what it is.
        if not ast.get_docstring(ast.parse(path.read_text())) and not (path.parent / "README.md").exists()
    ]
    assert not silent, f"no module docstring: {', '.join(map(str, silent))}"


def _exported() -> list[Any]:
    modules = ["hnet"] + [
        ".".join(path.parent.relative_to(ROOT).parts) for path in _python_files("hnet") if path.name == "__init__.py"
    ]
    found = []
    for name in [*sorted(set(modules)), "hnet_kernels"]:
        module = importlib.import_module(name)
        found += [(name, attribute, getattr(module, attribute)) for attribute in getattr(module, "__all__", [])]
    return [(f"{name}.{attribute}", value) for name, attribute, value in found if callable(value)]


def test_exported_names_have_docstrings_and_types() -> None:
    exported = _exported()
    assert len(exported) > 10
    for name, value in exported:
        assert inspect.getdoc(value), f"{name} has no docstring"
        if inspect.isfunction(value):
            missing = [
                parameter.name
                for parameter in inspect.signature(value).parameters.values()
                if parameter.annotation is parameter.empty
            ]
            assert not missing, f"{name}: no types for {missing}"
            assert "return" in value.__annotations__, f"{name}: no return type"


def test_no_stubs_and_no_swallowed_errors() -> None:
    pattern = re.compile(r"#\s*(TODO|FIXME|XXX)|except( Exception| BaseException)?:\s*(pass|\.\.\.)\s*$")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in _python_files(*FOLDERS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_readme_names_the_rooms_that_exist() -> None:
    tree = re.search(r"## What is where\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree is not None
    lines = dict(line.split("/", 1) for line in tree[1].splitlines())
    assert all((ROOT / folder).is_dir() for folder in lines)
    named = set(lines["hnet"].split())
    existing = {path.parent.name for path in (ROOT / "hnet").glob("*/__init__.py")}
    assert named == existing


def test_every_room_of_hnet_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "hnet").glob("*/__init__.py"):
        assert f"`hnet/{path.parent.name}`" in text, path.parent.name


def test_every_dependency_has_a_reason_and_a_pin() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    reasons = (ROOT / "docs" / "dependencies.md").read_text()
    pins = {line.partition("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = project["optional-dependencies"]
    for name, requirements in {"": project["dependencies"], **extras}.items():
        for requirement in requirements:
            package = re.split(r"[\[<>=;, ]", requirement)[0]
            if package == project["name"]:
                continue
            assert package in reasons, f"docs/dependencies.md gives no reason for {package}"
            # What needs a GPU to build is not installed where the pins are tested.
            assert name == "gpu" or package.lower() in pins, f"constraints.txt has no pin for {package}"


def test_nothing_is_tied_to_one_machine() -> None:
    """No absolute path of somebody's machine, no address but of papers, projects and licences."""
    everywhere = "bin/|dev/|etc/|proc/|sys/|tmp/|usr/|var/"
    images = "build/|home/hnet|opt/hnet|workspace/"
    examples = "api/|datasets/|mount/path|owner/|path/to/"
    home = re.compile(rf"(?<![\w.~}}\])>*/-])/(?!{everywhere}|{images}|{examples})[A-Za-z][\w.-]*/[A-Za-z]")
    address = re.compile(r"https?://([\w.-]+\w)")
    projects = {"arxiv.org", "doi.org", "github.com", "huggingface.co", "keepachangelog.com", "semver.org"}
    licences = {"www.apache.org", "creativecommons.org", "www.gutenberg.org", "sqlite.org", "www.sqlite.org"}
    known = {*projects, *licences, "download.pytorch.org", "www.w3.org", "example.org", "127.0.0.1"}
    found = []
    for path in _tracked_texts():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if home.search(line) or {host for host in address.findall(line) if host not in known}:
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "\n".join(found)
