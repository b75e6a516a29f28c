"""Which code runs: version of the package, git commit, and a digest of changes that are not committed."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import hnet


@dataclass(frozen=True)
class CodeVersion:
    """Equal on two machines only if they run the same code."""

    package: str
    python: str
    commit: str | None
    """None where the package does not lie in a git checkout."""
    changes: str | None
    """Digest of the uncommitted changes; None: there are none, or no checkout."""

    def describe(self) -> str:
        """`hnet 0.1.0, commit 1234567890ab with changes 89abcdef, Python 3.11.7`."""
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        changes = f" with changes {self.changes}" if self.changes else ""
        return f"hnet {self.package}{commit}{changes}, Python {self.python}"


def code_version(folder: Path | None = None) -> CodeVersion:
    """The version of the code in `folder`, by default of the package that is running."""
    folder = folder or Path(hnet.__file__).resolve().parents[1]
    commit = _git(folder, "rev-parse", "HEAD")
    changes = None
    # A wheel may lie in a virtual environment inside some other checkout: that commit says nothing about it.
    if commit is not None and _git(folder, "ls-files", "--error-unmatch", "hnet/__init__.py") is None:
        commit = None
    if commit is not None and (difference := _git(folder, "diff", "HEAD")):
        changes = hashlib.sha256(difference.encode()).hexdigest()[:8]
    return CodeVersion(hnet.__version__, platform.python_version(), commit, changes)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
