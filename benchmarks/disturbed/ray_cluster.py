"""A Ray cluster of two machines, both on this one, and the processes that it starts for the runs of a home."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

_RUN = "vlm_ablate.launch.remote"
_MEMORY = 80 * 2**20


class RayCluster:
    """Two machines of one CPU each, and a head that takes no runs."""

    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": _MEMORY}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._machines = [self._added() for _ in range(2)]

    @property
    def address(self) -> str:
        """`HOST:PORT` of the head."""
        return str(self._cluster.address)

    def _added(self) -> Any:
        return self._cluster.add_node(num_cpus=1, object_store_memory=_MEMORY)

    def lose_machine(self, which: int) -> None:
        """Kill a machine's daemon, as when power is cut; what it started is not told. Another machine joins."""
        lost = self._machines.pop(which)
        os.kill(lost.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        self._machines.append(self._added())

    def close(self) -> None:
        """End all of it."""
        self._cluster.shutdown()


def computing(home: Path) -> list[int]:
    """Processes that compute runs of a home."""
    return [pid for pid, command in _commands() if _RUN in command and any(str(home) in word for word in command)]


def attending(home: Path) -> list[int]:
    """Ray's processes that look after them."""
    return [pid for run in computing(home) if (pid := _parent(run)) is not None and pid > 1]


def _commands() -> list[tuple[int, list[str]]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                found.append((int(folder.name), (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")))
            except OSError:
                continue
    return found


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
