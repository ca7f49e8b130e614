"""What Slurm tells: its commands, whether a job can ever run, which are over, whether a machine sees the home; and in a
job its environment, which of the job's machines this is."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from vlm_ablate.errors import VlmAblateError, nearest
from vlm_ablate.launch.base import Placement
from vlm_ablate.launch.configs import SlurmConfig
from vlm_ablate.launch.handover import Handover
from vlm_ablate.launch.seats import Seat

ANSWER_SECONDS = 30.0
"""How long Slurm's controller may take to answer."""
PROBE_SECONDS = 15
"""How long a machine may take to be free for a look whether it sees the home."""
USUAL_ARRAY = 1001
"""Slurm's own MaxArraySize, where a cluster tells no other."""
USUAL_MINUTES = 240
"""Limit of a job, where nothing is said and the partition allows it."""
GOING = {"PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
         "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}  # fmt: skip
"""States of jobs that are not over."""
_TIME = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
_GPU = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")


def submit_options(config: SlurmConfig) -> dict[str, Any]:
    """Options of `sbatch` and `srun` that choose machines, and those that are passed on."""
    chosen = {"partition": config.partition, "account": config.account, "qos": config.qos,
              "constraint": config.constraint, "mem": config.mem and config.mem.removesuffix("B")}  # fmt: skip
    return {name: value for name, value in chosen.items() if value is not None} | config.extra


class Slurm:
    """The cluster that this machine is part of.

    Raises:
        VlmAblateError: there is none, or its controller does not answer.
    """

    def __init__(self, config: SlurmConfig) -> None:
        if shutil.which("sbatch") is None:
            raise VlmAblateError(
                "this machine is no part of a Slurm cluster: there is no sbatch",
                hint="run the command on a login node; --launcher-set executor=local tries the jobs out without Slurm",
            )
        self.config = config
        self._checked: set[Placement] = set()
        self._misses: dict[str, int] = {}
        """Job -> how often in a row Slurm did not know it."""
        listed = _answer(["sinfo", "--noheader", "--Node", "--format", "%R|%G|%l|%P"])
        rows = [line.strip().split("|") for line in listed.splitlines() if line.count("|") == 3]
        wanted = set(config.partition.split(",")) if config.partition else {r[0] for r in rows if r[3].endswith("*")}
        known = sorted({row[0] for row in rows})
        if absent := sorted(wanted - {*known}):
            near = nearest(absent[0], known)
            raise VlmAblateError(
                f"Slurm has no partition {absent[0]!r}",
                hint=(f"did you mean {near!r}? " if near else "") + f"known: {', '.join(known)}",
            )
        self._rows = [row for row in rows if row[0] in wanted] or rows
        self._most_gpus = max((_gpus(row[1]) for row in self._rows), default=0)
        limit = max((_minutes(row[2]) for row in self._rows), default=math.inf)
        if config.time is not None and config.time > limit:
            raise VlmAblateError(f"a job of {config.time} min: the partition allows {limit:g} min (time)")
        self.minutes = config.time or int(min(USUAL_MINUTES, limit))
        """Limit of each job."""
        self.array_size = _array_size()
        """Most jobs of one array: their indices begin at 0 and stay below."""

    def gpus(self, placement: Placement) -> int:
        """GPUs that a job asks for."""
        return placement.devices if placement.devices is not None else min(1, self._most_gpus)

    def check_options(self, placement: Placement) -> None:
        """
        Raises:
            VlmAblateError: no machine can ever take a job with these options, or Slurm refuses them.
        """
        if placement in self._checked:
            return
        number = self.gpus(placement)
        if number > self._most_gpus:
            raise VlmAblateError(
                f"a run asks for {number} GPU{'s' * (number > 1)}, and the most that a Slurm node has is"
                f" {self._most_gpus}",
                hint="ask for less a run: --devices; or for another partition: --launcher-set partition=NAME",
            )
        options = submit_options(self.config) | {"nodes": placement.nodes or 1, "time": self.minutes}
        options |= {"cpus-per-task": self.config.cpus} | ({"gpus-per-node": number} if number else {})
        _answer(["sbatch", "--test-only", *_flags(options), "--wrap", "true"])
        self._checked.add(placement)

    def check_home(self, handover: Handover) -> None:
        """Have one machine show that it sees the home. When none is free for that, each job does so when it starts.

        Raises:
            VlmAblateError: it does not.
        """
        token = handover.root / "token"
        options = submit_options(self.config) | {"immediate": PROBE_SECONDS, "time": 1, "chdir": "/", "quiet": True}
        look = ["srun", *_flags(options), "--ntasks", "1", "cat", str(token)]
        try:
            done = subprocess.run(
                look, capture_output=True, text=True, errors="replace", timeout=PROBE_SECONDS + ANSWER_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            return
        if done.stdout.strip() == handover.token or "No such file" not in done.stderr:
            return
        raise VlmAblateError(
            f"a node of Slurm does not see the home: {_last(done.stderr)}",
            hint="put the home on a file system that all nodes mount at the same path: --home or VLM_ABLATE_HOME",
        )

    def ended(self, jobs: Sequence[str]) -> Mapping[str, str]:
        """Jobs that are over -> their state, "" for completed ones. An answer that fails tells nothing."""
        if not jobs:
            return {}
        numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
        asked = ["squeue", "--noheader", "--array", "--states=all", "--jobs", numbers, "--format", "%i|%F|%K|%T"]
        try:
            listed = _answer(asked)
        except VlmAblateError as error:
            if "Invalid job id" not in error.message:
                return {}  # a controller that is away for a while
            listed = ""  # none of them is known any more
        states: dict[str, str] = {}
        for line in listed.splitlines():
            own, array, index, state = (*line.strip().split("|"), "", "", "")[:4]
            states[own] = states[f"{array}_{index}"] = state
        over = {job: self._over(job, states.get(job)) for job in jobs}
        return {job: why for job, why in over.items() if why is not None}

    def _over(self, job: str, state: str | None) -> str | None:
        """None: it is not over."""
        if state is not None:
            self._misses.pop(job, None)
            return None if state in GOING else "" if state == "COMPLETED" else state
        self._misses[job] = self._misses.get(job, 0) + 1  # it may not be known yet
        return "Slurm does not know it any more" if self._misses[job] > 3 else None

    def cancel(self, jobs: Iterable[str]) -> None:
        """End jobs, waiting or running."""
        if names := list(jobs):
            _answer(["scancel", "--quiet", *names])


def _array_size() -> int:
    with suppress(VlmAblateError):
        if told := re.search(r"^MaxArraySize\s*=\s*(\d+)", _answer(["scontrol", "show", "config"]), re.MULTILINE):
            return max(1, int(told[1]))
    return USUAL_ARRAY


def _flags(options: Mapping[str, Any]) -> list[str]:
    return [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not False
    ]


def _minutes(limit: str) -> float:
    """`1-12:00:00` -> 2160.0; `infinite` -> inf."""
    found = _TIME.fullmatch(limit.strip())
    if found is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _gpus(gres: str) -> int:
    """GPUs that a node has: `gpu:a100:8(S:0-1)` -> 8."""
    return sum(int(number) for number in _GPU.findall(gres))


def _answer(command: Sequence[str]) -> str:
    """What one of Slurm's commands prints.

    Raises:
        VlmAblateError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise VlmAblateError(f"Slurm does not answer: `{command[0]}` took more than {ANSWER_SECONDS:g} s") from None
    except OSError as error:
        raise VlmAblateError(f"Slurm's `{command[0]}` cannot be started: {error.strerror}") from error
    if done.returncode:
        raise VlmAblateError(f"Slurm refuses: {_last(done.stderr)}", hint=f"the command was: {' '.join(command)}")
    return done.stdout


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "it does not say why")[:300]


def seat_of_slurm(environment: Mapping[str, str] = os.environ) -> Seat | None:
    """Of the one process that a job has on each of its machines; None: it has one machine."""
    count = int(environment.get("SLURM_JOB_NUM_NODES") or 1)
    if count == 1:
        return None
    first = _first_host(environment["SLURM_JOB_NODELIST"])
    port = 20_000 + int(environment["SLURM_JOB_ID"]) % 40_000  # the same on all of them, another for each job
    return Seat(int(environment["SLURM_PROCID"]), count, 1, first, port)


def _first_host(names: str) -> str:
    """`gpu[07-09,12],cpu1` -> `gpu07`."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\])?([^\[,]*)", names)
    return "".join(part or "" for part in found.groups()) if found else names
