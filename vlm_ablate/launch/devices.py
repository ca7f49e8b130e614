"""How many cores and GPUs this process may use, found without importing torch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

_ID = re.compile(r"\d|GPU-|MIG-")


def gpus() -> list[str]:
    """Ids for CUDA_VISIBLE_DEVICES: those of the variable if it is set, else what nvidia-smi lists, else none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = [part.strip() for part in visible.split(",")]
        # CUDA stops reading at the first id that is not valid: -1, or the NoDevFiles of a job without GPUs.
        return [*takewhile(_ID.match, filter(None, ids))]
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        listing = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.splitlines() if line.strip()]


def cores() -> int:
    """Cores that this process may use: its affinity, and no more than a container's CPU quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, _, period = Path("/sys/fs/cgroup/cpu.max").read_text().partition(" ")
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return count


def worker_environment(places: Sequence[int], devices: list[str], threads: int) -> dict[str, str]:
    """Environment of a worker: its threads and the GPUs of its places, to be set before torch is imported."""
    # The worker module must be found wherever this package is imported from.
    package_root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | thread_variables(threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[place % len(devices)] for place in places)
    return environment


def thread_variables(threads: int) -> dict[str, str]:
    """Variables that hold one run to so many threads."""
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    variables["TOKENIZERS_PARALLELISM"] = "false"
    if threads > 1:
        # Spinning threads of two runs on the same cores make both many times slower.
        variables["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return variables
