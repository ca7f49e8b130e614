"""Three small runs as a command with two workers, forked from a process that has imported everything.

On a Ray cluster the command is forked, too; its workers are started by Ray as in use, and import everything themselves.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from disturbed.ray_cluster import RayCluster, attending, computing

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
os.environ |= {"OMP_NUM_THREADS": "1", "VLM_ABLATE_LEASE_SECONDS": "2", "TOKENIZERS_PARALLELISM": "false",
               "MLFLOW_DISABLE_TELEMETRY": "true"}  # fmt: skip
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

PATIENCE_SECONDS = 240.0
"""For one command; one that takes longer, and six times as long as an undisturbed one, hangs."""
PRELOADED = ["training.squares", "vlm_ablate.runs.execute", "vlm_ablate.launch.worker", "vlm_ablate.launch.campaign",
             "vlm_ablate.launch.local", "mlflow", "mlflow.tracking", "matplotlib.figure",
             "vlm_ablate.accounting"]  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


class ForkedWorker:
    """Takes the place of `subprocess.Popen` in the local launcher: the same worker, forked where all is imported."""

    def __init__(self, command: list[str], *, env: dict[str, str], pass_fds: list[int], **_: Any) -> None:
        link = Connection(os.dup(pass_fds[0]))
        self._process = _context.Process(target=_serve, args=(link, env, os.environ["FAULTS_PLACE"]))
        self._process.start()
        self.pid = self._process.pid
        link.close()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self._process.exitcode


def _serve(link: Connection, environment: dict[str, str], place: str) -> None:
    """What a worker process does, with more frequent flushes to the store."""
    os.setsid()
    os.environ.update(environment)
    _mark(place, "worker")
    faulthandler.register(signal.SIGUSR2)
    from vlm_ablate.launch import worker
    from vlm_ablate.runs.publishing import Publishing

    Publishing.__init__.__defaults__ = (0.5,)
    sys.argv = ["worker", str(link.fileno())]
    os._exit(worker.main())


def _command(place: str, parts: str, home: str, server: str, cluster: str) -> None:
    """What `vlm-ablate run` does behind its options: a campaign over all runs.

    Args:
        server: address of the process that everything is forked from; without it this one would start one of its own.
        cluster: address of a Ray cluster that computes; "": two processes of this machine do.
    """
    os.setsid()
    forkserver._forkserver._forkserver_address = server  # type: ignore[attr-defined]
    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
    os.environ["FAULTS_PLACE"] = place
    _mark(place, "parent")
    log = os.open(f"{place}/output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.register(signal.SIGUSR2)  # says where a command that hangs does
    from vlm_ablate.home import Home
    from vlm_ablate.launch.campaign import Campaign

    try:
        with Campaign(_launcher(cluster), Home(Path(home)), _told) as campaign:
            outcomes = campaign.run(specs(Path(parts)))
        text = json.dumps([{"run": o.run, "status": o.status, "message": o.message} for o in outcomes])
    except Exception as error:
        text = json.dumps([{"run": "", "status": type(error).__name__, "message": str(error)}])
    print(text, flush=True)
    os.write(os.open(f"{place}/outcome-{os.getpid()}.json", os.O_WRONLY | os.O_CREAT), text.encode())


def _launcher(cluster: str) -> Any:
    from vlm_ablate.launch import local
    from vlm_ablate.launch.configs import LocalConfig, RayConfig

    if cluster:
        from vlm_ablate.launch.ray import RayLauncher

        return RayLauncher(RayConfig(address=cluster))
    local.subprocess.Popen = ForkedWorker  # type: ignore[assignment,misc]
    return local.LocalLauncher(LocalConfig(jobs=2))


def _told(event: Any) -> None:
    if type(event).__name__ in ("Notice", "RunFinished"):
        print(event, flush=True)


def _mark(place: str, kind: str) -> None:
    Path(place, f"{kind}-{os.getpid()}").touch()


def specs(parts: Path) -> list[Any]:
    """Three runs of seconds; the first two share their first stage."""
    from training.squares import STAGE, make_spec

    def stages(rate: float) -> dict[str, Any]:
        tune = {"steps": 6, "language": "lora", "lora": {"r": 2, "dropout": 0.1}, "learning_rate": rate}
        return {"align": STAGE | {"steps": 12, "language": "full"}, "tune": STAGE | tune}

    curve = {"points": 2, "limit": 4}
    return [
        make_spec(parts, arm="slow", stages=stages(1e-3), curve=curve),
        make_spec(parts, arm="fast", stages=stages(1e-2), curve=curve),
        make_spec(parts, arm="mlp", stages=stages(1e-2), connector={"name": "mlp"}, curve=curve),
    ]


def warm_up() -> None:
    """Have the process that workers are forked from import everything."""
    process = _context.Process(target=os.getpid)
    process.start()
    process.join()


@dataclass
class Command:
    """A running command and its workers."""

    place: Path
    parts: Path
    home: Path
    process: Any = None
    patience: ClassVar[float] = PATIENCE_SECONDS
    cluster: ClassVar[RayCluster | None] = None
    """Where workers are started; None: on this machine."""

    def start(self) -> Command:
        self.place.mkdir(parents=True, exist_ok=True)
        server = forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]
        told = (str(self.place), str(self.parts), str(self.home), server, self.cluster.address if self.cluster else "")
        self.process = _context.Process(target=_command, args=told)
        self.process.start()
        return self

    def pids(self, kind: str) -> list[int]:
        """Those that live: of the kinds parent, worker and, on a cluster, attendant."""
        if self.cluster is not None and kind != "parent":
            return [pid for pid in (computing if kind == "worker" else attending)(self.home) if alive(pid)]
        marked = (int(file.name.rpartition("-")[2]) for file in self.place.glob(f"{kind}-*"))
        return [pid for pid in marked if alive(pid)]

    @property
    def all(self) -> list[int]:
        return [*self.pids("parent"), *self.pids("attendant"), *self.pids("worker")]

    def end(self) -> list[dict[str, str]] | None:
        """Wait for the end; what became of the runs, None when the command was killed.

        Raises:
            TimeoutError: it hangs.
        """
        self.process.join(self.patience)
        if self.process.exitcode is None:
            send(self.all if self.cluster is None else [self.process.pid], signal.SIGUSR2)
            self.process.join(2)  # their stacks are in output.txt and in the logs of the runs then
            send(self.all, signal.SIGKILL)
            raise TimeoutError(f"the command still goes after {self.patience:.0f} s")
        file = self.place / f"outcome-{self.process.pid}.json"
        return json.loads(file.read_text()) if file.exists() else None


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
