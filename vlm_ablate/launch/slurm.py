"""Runs as jobs of a Slurm cluster, through submitit, those that are asked for together as one array.

A job starts a process of its own for its run. Before the time limit, and when it is preempted, Slurm sends a signal:
the run leaves a checkpoint after the step in progress, and the job puts itself back into the queue. submitit's own
handlers and Lightning's do not take part: submitit ignores SIGTERM, and the two put a job back each in its own way.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.configs import SlurmConfig
from vlm_ablate.launch.devices import cores, gpus
from vlm_ablate.launch.engine import EngineLauncher
from vlm_ablate.launch.handover import Handover, Saying, Task, check_home
from vlm_ablate.launch.remote import attend
from vlm_ablate.launch.seats import follow, holding
from vlm_ablate.launch.slurm_nodes import USUAL_MINUTES, Slurm, seat_of_slurm, submit_options
from vlm_ablate.runs.folder import read_json, run_folder, variants, write_json

FOLDER = "slurm"
"""In the launch's folder: scripts and output of the jobs."""
IDLE_JOBS = 5
"""Jobs of a run that come to their time limit one after another and leave nothing more than there was before; with the
next one it fails, as it would go back into the queue without end."""
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def SlurmLauncher(config: SlurmConfig) -> EngineLauncher:
    """A launcher over a Slurm cluster."""
    return EngineLauncher(SlurmEngine(config) if config.executor == "slurm" else ProcessEngine(config))


class _Submitted:
    """What the two executors of submitit share."""

    name = "slurm"
    cluster = ""

    def __init__(self, config: SlurmConfig) -> None:
        self.config = config
        self.jobs: int | None = None
        self.retries, self.threads = config.retries, config.threads
        self.alone = config.executor == "local"
        self.outlive = config.executor == "slurm"

    def open(self, handover: Handover) -> None:
        """See `Engine.open`."""
        self._handover = handover
        self._submitit = _submitit()

    def parameters(self, placement: Placement) -> dict[str, Any]:
        """For the executor."""
        raise NotImplementedError

    def start(self, tasks: Sequence[Task], placement: Placement) -> Sequence[Hashable]:
        """See `Engine.start`."""
        executor = self._submitit.AutoExecutor(self._handover.root / FOLDER, cluster=self.cluster)
        executor.update_parameters(**self.parameters(placement))
        root, token = str(self._handover.root), self._handover.token
        try:
            with executor.batch():
                jobs = [executor.submit(run_task, str(task.root), root, token, *self.more(task)) for task in tasks]
        except Exception as error:  # submitit passes on what sbatch says, in exceptions of several kinds
            raise VlmAblateError(f"Slurm does not take the jobs: {_last_line(error)}") from error
        return self.named(jobs)

    def more(self, task: Task) -> tuple[str, ...]:
        """Further arguments of a task's job."""
        return ()

    def named(self, jobs: Sequence[Any]) -> Sequence[Hashable]:
        """What names the jobs for `ended`."""
        return jobs

    def close(self) -> None:
        """See `Engine.close`."""


class SlurmEngine(_Submitted):
    """See `Engine`."""

    cluster = "slurm"
    _arrays = 1
    """Those that are being submitted, which share the jobs at a time."""

    def open(self, handover: Handover) -> None:
        """See `Engine.open`."""
        super().open(handover)
        self._slurm = Slurm(self.config)
        self._slurm.check_options(Placement(devices=0))
        self._slurm.check_home(handover)

    def check(self, placement: Placement) -> None:
        """See `Engine.check`."""
        self._slurm.check_options(placement)

    def parameters(self, placement: Placement) -> dict[str, Any]:
        """See `_Submitted.parameters`."""
        config, number = self.config, self._slurm.gpus(placement)
        at_a_time = max(1, config.jobs // self._arrays) if config.jobs else self._slurm.array_size
        options: dict[str, Any] = {
            "name": "vlm-ablate", "timeout_min": self._slurm.minutes, "cpus_per_task": config.cpus, "tasks_per_node": 1,
            "nodes": placement.nodes or 1, "stderr_to_stdout": True, "slurm_signal_delay_s": config.signal_seconds,
            "slurm_setup": config.setup or None, "slurm_array_parallelism": at_a_time,
            "slurm_additional_parameters": submit_options(config) | {"requeue": True},
        }  # fmt: skip
        if number:
            options["gpus_per_node"] = number
        return {key: value for key, value in options.items() if value is not None}

    def start(self, tasks: Sequence[Task], placement: Placement) -> Sequence[Hashable]:
        """See `Engine.start`. More tasks than one array may have are several."""
        jobs: list[Hashable] = []
        starts = range(0, len(tasks), self._slurm.array_size)
        self._arrays = len(starts)
        try:
            for at in starts:
                jobs += super().start(tasks[at : at + self._slurm.array_size], placement)
        except BaseException:
            with suppress(VlmAblateError):
                self.cancel(jobs)
            raise
        return jobs

    def named(self, jobs: Sequence[Any]) -> Sequence[Hashable]:
        """Numbers of the jobs, as Slurm writes them."""
        return [str(job.job_id) for job in jobs]

    def ended(self, jobs: Iterable[Hashable]) -> Mapping[Hashable, str]:
        """See `Engine.ended`."""
        return {job: why for job, why in self._slurm.ended([str(job) for job in jobs]).items()}

    def cancel(self, jobs: Iterable[Hashable]) -> None:
        """See `Engine.cancel`."""
        self._slurm.cancel([str(job) for job in jobs])


class ProcessEngine(_Submitted):
    """submitit's local executor: the same jobs as processes of this machine."""

    cluster = "local"

    def __init__(self, config: SlurmConfig) -> None:
        super().__init__(config)
        self.jobs = config.jobs  # there are no arrays that hold their jobs back
        self._have: list[str] = []
        self._number = 0
        """GPUs of each job that is being started."""
        self._given: list[tuple[Task, list[str]]] = []
        """What has GPUs, or had."""

    def open(self, handover: Handover) -> None:
        """See `Engine.open`."""
        super().open(handover)
        self._have = gpus()

    def check(self, placement: Placement) -> None:
        """See `Engine.check`."""
        have = len(self._have)
        if (placement.devices or 0) > have:
            raise VlmAblateError(f"{placement.devices} GPUs a run: this machine has {have}")
        if (placement.nodes or 1) > 1:
            raise VlmAblateError(f"{placement.nodes} nodes a run: this executor has this machine only")
        if self.config.jobs is None:
            room = max(1, (have or cores()) // (placement.devices or 1))
            self.jobs = min(self.jobs or room, room)

    def parameters(self, placement: Placement) -> dict[str, Any]:
        """See `_Submitted.parameters`."""
        self._number = placement.devices if placement.devices is not None else min(1, len(self._have))
        return {"timeout_min": self.config.time or USUAL_MINUTES, "stderr_to_stdout": True}

    def more(self, task: Task) -> tuple[str, ...]:
        """See `_Submitted.more`: those of the GPUs that fewest have. submitit itself gives the first to every job."""
        self._given = [(other, ids) for other, ids in self._given if not other.withdrawn]
        taken = [device for _, ids in self._given for device in ids]
        chosen = sorted(self._have, key=taken.count)[: self._number]
        self._given.append((task, chosen))
        return (",".join(chosen),)

    def ended(self, jobs: Iterable[Hashable]) -> Mapping[Hashable, str]:
        """See `Engine.ended`."""
        return {job: "" for job in jobs if job.done()}  # type: ignore[attr-defined]  # a submitit job

    def cancel(self, jobs: Iterable[Hashable]) -> None:
        """See `Engine.cancel`."""
        for job in jobs:
            job.cancel(check=False)  # type: ignore[attr-defined]  # a submitit job


def run_task(task: str, root: str, token: str, devices: str | None = None) -> None:
    """In a job: one run. In a job of several machines this is called on each; the first has the run.

    Args:
        devices: GPUs of a job that is a process of this machine; a job of Slurm around it is another's.

    Raises:
        HomeNotShared: this machine does not see the home.
    """
    heard: list[int] = []
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: heard.append(number))
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    seat = seat_of_slurm() if devices is None else None
    if seat is not None and seat.index:
        follow(seat, check=lambda: check_home(root, token))
        return
    check_home(root, token)
    data = Task(Path(task)).read()
    home = Home(Path(data["home"]))
    try:
        with holding(seat, (), home, lambda message: print(message, flush=True)):
            ended = attend(Task(Path(task)), leave=lambda: bool(heard))
    except VlmAblateError as error:
        if seat is not None:  # the machines beside this one do not come, or cannot be used
            Saying(Task(Path(task))).send(("died", str(error)))
        raise
    if ended == "interrupted" and heard and not Task(Path(task)).withdrawn:
        if signal.SIGTERM not in heard and _stands_still(Task(Path(task)), home, data["id"]):
            Saying(Task(Path(task))).send(("died", _STANDS_STILL))
        elif devices is None:
            _requeue()


_STANDS_STILL = (
    f"{IDLE_JOBS + 1} of its jobs came to their time limit, and the last {IDLE_JOBS} left no further checkpoint, stage"
    " or score: give a job more time (--launcher-set time=MINUTES), or save more often (execution.checkpoint_every)"
)


def _stands_still(task: Task, home: Home, run: str) -> bool:
    """Whether job after job of a run has come to its time limit with nothing more on disk; called once in each."""
    file, names = task.root / "limits.json", ("checkpoint-*", "outcome.json", "scores/*/predictions.jsonl")
    keys = (run_folder(home, run).read() or {}).get("stages", ())
    folders = [folder for key in keys for folder in variants(home.stages, key)]
    left = sorted(f"{path} {path.stat().st_size}" for at in folders for name in names for path in at.glob(name))
    before = read_json(file) or {}
    times = before["times"] + 1 if before.get("left") == left else 1
    write_json(file, {"left": left, "times": times})
    return bool(times > IDLE_JOBS)


def _requeue() -> None:
    """Put this job back into the queue, unless Slurm has done so, or the job was cancelled."""
    if "SLURM_JOB_ID" not in os.environ:
        return
    job = os.environ["SLURM_JOB_ID"]  # of an array, too, the number of this element's own
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["squeue", "--noheader", "--jobs", job, "--format", "%T"]
        state = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        if state == "RUNNING":
            print(f"{socket.gethostname()}: back into the queue", flush=True)
            subprocess.run(["scontrol", "requeue", job], timeout=30, check=True)
            time.sleep(60)  # Slurm ends this job now


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise VlmAblateError("submitit is not installed", hint="pip install 'vlm_ablate[slurm]'") from error
    return submitit
