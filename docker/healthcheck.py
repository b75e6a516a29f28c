#!/usr/bin/env python3
"""HEALTHCHECK of the images: does a run still make progress?

With HNET_OUTPUT_DIR set to a run's output_dir, its metrics.jsonl must have grown in the last HNET_HEALTH_SECONDS
(default 1800), counted from the start of the container at the earliest: a first step takes its time too.
Without HNET_OUTPUT_DIR, the installed hnet must answer. Exit code 0: healthy, 1: not; one line says why.
"""

import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    folder = os.environ.get("HNET_OUTPUT_DIR")
    if folder is None:
        return subprocess.run(["hnet", "--version"]).returncode != 0
    metrics = Path(folder, "metrics.jsonl")
    limit = float(os.environ.get("HNET_HEALTH_SECONDS", "1800"))
    # The first process of the container: Docker's, or the pod's where containers share their processes.
    started = Path("/proc/1").stat().st_mtime
    written = metrics.stat().st_mtime if metrics.exists() else 0.0
    age = time.time() - max(started, written)
    what = f"{metrics} was written" if written > started else f"the container started, {metrics} was not written since"
    print(f"{age:.0f} s since {what}; the limit is {limit:.0f} s")
    return int(age > limit)


if __name__ == "__main__":
    sys.exit(main())
