"""A command of some version of the package, in a process of its own, and the CPU time that it takes."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path


def command_seconds(package: Path, *arguments: str, home: Path | str, folder: Path) -> tuple[float, bytes]:
    """CPU seconds (user and system, of the process and its children) of a command, and what it printed.

    Args:
        package: folder that holds `vlm_ablate`, a checkout or one that a version was installed into.
        arguments: of `vlm-ablate`.
        home: of runs and plans.
        folder: in which it runs.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    environment = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "VLM_ABLATE_HOME": str(home)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled code is kept, as it is where nobody says otherwise
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "vlm_ablate", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{package}: {' '.join(arguments)}: {(done.stderr or done.stdout).decode()[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout
