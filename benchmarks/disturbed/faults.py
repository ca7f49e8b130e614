"""The kinds of faults, and what is put back after them."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from disturbed.processes import Command, send, specs

KINDS = ("kill_worker", "kill_parent", "kill_all", "stop_worker", "stop_all", "disk_full", "store_away", "store_gone",
         "flip_bit", "second_run", "flip_finished")  # fmt: skip
RAY_KINDS = ("kill_worker", "kill_attendant", "kill_parent", "kill_all", "kill_machine")
"""What is killed on a cluster: what computes a run, Ray's process that looks after it, the command, all of these, a
machine's daemon."""


@dataclass
class Fault:
    """One fault and what came of it."""

    number: int
    kind: str
    at: float
    """Share of the undisturbed run's time."""
    detail: str = ""
    lost: list[str] = field(default_factory=list)
    told: str = ""
    repeats: int = 0
    seconds: float = 0.0


class Undo:
    """What is put back after the disturbed command has ended."""

    def __init__(self) -> None:
        self.flipped: tuple[Path, bytes, bytes] | None = None
        self.store: Path | None = None


def inject(fault: Fault, command: Command, rng: random.Random, undo: Undo) -> None:
    """Do the fault to a running command."""
    workers, home = command.pids("worker"), command.home
    match fault.kind:
        case "kill_worker":
            send(rng.sample(workers, min(1, len(workers))), signal.SIGKILL)
        case "kill_attendant":
            attendants = command.pids("attendant")
            send(rng.sample(attendants, min(1, len(attendants))), signal.SIGKILL)
        case "kill_machine":
            assert command.cluster is not None
            command.cluster.lose_machine(rng.randrange(2))
        case "kill_parent":
            send(command.pids("parent"), signal.SIGKILL)
        case "kill_all":
            send(command.all, signal.SIGKILL)
        case "stop_worker" | "stop_all":
            stopped = command.all if fault.kind == "stop_all" else rng.sample(workers, min(1, len(workers)))
            send(stopped, signal.SIGSTOP)
            other = Command(command.place / "other", command.parts, home).start()
            with suppress(TimeoutError):
                if rng.random() < 0.5:  # it wakes up in the middle of the other's work, or after it
                    time.sleep(rng.uniform(2.0, 40.0))
                else:
                    other.end()
            send(stopped, signal.SIGCONT)
            other.end()
        case "second_run":
            Command(command.place / "other", command.parts, home).start().end()
        case "disk_full":
            most = rng.choice([0, 2_000, 20_000, 60_000])
            fault.detail = f"no file beyond {most} bytes"
            for pid in command.all:
                with suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        case "store_away" | "store_gone":
            with suppress(FileNotFoundError):
                os.rename(home / "mlflow.db", home / "mlflow.away")
                undo.store = home / "mlflow.away"
        case "flip_bit":
            send(command.all, signal.SIGKILL)
            _wait_gone(command)
            flip(fault, home, rng, undo)


def _wait_gone(command: Command) -> None:
    while command.all:
        time.sleep(0.05)


def flip(fault: Fault, home: Path, rng: random.Random, undo: Undo) -> None:
    """Flip one bit of one file of the results."""
    names = ("*.json", "*.jsonl", "*.ckpt", "*.safetensors")
    found = sorted(p for name in names for top in ("stages", "runs") for p in (home / top).rglob(name)
                   if p.is_file() and p.stat().st_size and p.name != "live.json")  # fmt: skip
    if not found:
        return
    kinds = sorted({_kind(p) for p in found})
    kind = rng.choice(kinds)
    file = rng.choice([p for p in found if _kind(p) == kind])
    before = file.read_bytes()
    place = rng.randrange(8 * len(before))
    after = bytearray(before)
    after[place // 8] ^= 1 << place % 8
    file.write_bytes(after)
    fault.detail = f"bit {place} of {file.relative_to(home)}"
    undo.flipped = (file, before, bytes(after))


def _kind(file: Path) -> str:
    return file.suffix if file.suffix == ".ckpt" else file.name if "." not in file.stem else "curve"


def put_back(fault: Fault, undo: Undo, home: Path, outcomes: list[dict[str, str]] | None) -> None:
    """When the damaged file was named, do what a person would do."""
    said = json.dumps(outcomes)
    if undo.flipped is not None and outcomes and str(undo.flipped[0]) in said and not fault.told:
        fault.told = next(o["message"] for o in outcomes if str(undo.flipped[0]) in o["message"])[:300]
        undo.flipped[0].write_bytes(undo.flipped[1])


def told_by_reader(parts: Path, home: Path, file: Path) -> str:
    """What the commands that read results say of a damaged file, if they do."""
    from vlm_ablate.errors import VlmAblateError
    from vlm_ablate.evaluation.predictions import read_predictions
    from vlm_ablate.home import Home
    from vlm_ablate.runs.results import check_weights, find_results
    from vlm_ablate.runs.view import record_of

    try:
        for spec in specs(parts):
            results = find_results(spec, Home(home))
            record_of(results)
            for stage in results.stages:
                check_weights(stage)
            for _, score in results.scores:
                read_predictions(score.predictions)
        if file.parent.name == "curve" and file.exists():
            read_predictions(file)
    except VlmAblateError as error:
        return str(error)[:300] if str(file) in str(error) else ""
    return ""
