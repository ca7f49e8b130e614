"""Faults at random moments of small experiments; after each the command is repeated, and nothing may be lost.

An experiment of three runs (two of them share a stage) is run by two workers of the local launcher, as `vlm-ablate run`
does, and disturbed once: processes are killed or stopped, the disk refuses, the store goes away, a bit flips, a second
command starts at once. Then the command is repeated until every run is finished, and weights, logs, predictions, scores
and the store's metric histories are compared with those of an undisturbed run. A flipped bit must be repaired or told
by an error that names the file; that file is then put back. (`flip_finished` flips one of finished runs, and only reads
them.)

    python benchmarks/faults.py --faults 50 --seed 0 --minutes 30 [--kinds stop_worker,flip_bit] [--out faults.json]

The same command goes on where it ended. Workers are forked from a process that has imported everything, so that a
fault costs seconds and not the time of two imports; all else is as it is in use.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
os.environ |= {"OMP_NUM_THREADS": "1", "VLM_ABLATE_LEASE_SECONDS": "2", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

PATIENCE_SECONDS = 240.0
"""For one command; one that takes longer hangs."""
REPEATS = 4
NOT_COMPARED = {"train/tokens_per_s", "time/wall_s", "time/waiting_for_data"}
KINDS = ("kill_worker", "kill_parent", "kill_all", "stop_worker", "stop_all", "disk_full", "store_away", "store_gone",
         "flip_bit", "second_run", "flip_finished")  # fmt: skip
_context = multiprocessing.get_context("forkserver")


# --- processes --------------------------------------------------------------------------------------------------------


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
    from vlm_ablate.launch import worker
    from vlm_ablate.runs.publishing import Publishing

    Publishing.__init__.__defaults__ = (0.5,)
    sys.argv = ["worker", str(link.fileno())]
    os._exit(worker.main())


def _command(place: str, parts: str, home: str) -> None:
    """What `vlm-ablate run` does behind its options: a campaign over all runs."""
    os.setsid()
    os.environ["FAULTS_PLACE"] = place
    _mark(place, "parent")
    log = os.open(f"{place}/output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from vlm_ablate.home import Home
    from vlm_ablate.launch import local
    from vlm_ablate.launch.campaign import Campaign
    from vlm_ablate.launch.configs import LocalConfig

    local.subprocess.Popen = ForkedWorker  # type: ignore[assignment,misc]
    try:
        with Campaign(local.LocalLauncher(LocalConfig(jobs=2)), Home(Path(home)), _told) as campaign:
            outcomes = campaign.run(specs(Path(parts)))
        text = json.dumps([{"run": o.run, "status": o.status, "message": o.message} for o in outcomes])
    except Exception as error:
        text = json.dumps([{"run": "", "status": type(error).__name__, "message": str(error)}])
    print(text, flush=True)
    os.write(os.open(f"{place}/outcome-{os.getpid()}.json", os.O_WRONLY | os.O_CREAT), text.encode())


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


@dataclass
class Command:
    """A running command and its workers."""

    place: Path
    parts: Path
    home: Path
    process: Any = None

    def start(self) -> Command:
        self.place.mkdir(parents=True, exist_ok=True)
        self.process = _context.Process(target=_command, args=(str(self.place), str(self.parts), str(self.home)))
        self.process.start()
        return self

    def pids(self, kind: str) -> list[int]:
        """Those that live."""
        marked = (int(file.name.rpartition("-")[2]) for file in self.place.glob(f"{kind}-*"))
        return [pid for pid in marked if _alive(pid)]

    @property
    def all(self) -> list[int]:
        return [*self.pids("parent"), *self.pids("worker")]

    def end(self) -> list[dict[str, str]] | None:
        """Wait for the end; what became of the runs, None when the command was killed.

        Raises:
            TimeoutError: it hangs.
        """
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            _signal(self.all, signal.SIGKILL)
            raise TimeoutError(f"the command still goes after {PATIENCE_SECONDS:.0f} s")
        file = self.place / f"outcome-{self.process.pid}.json"
        return json.loads(file.read_text()) if file.exists() else None


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


# --- faults -----------------------------------------------------------------------------------------------------------


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
            _signal(rng.sample(workers, min(1, len(workers))), signal.SIGKILL)
        case "kill_parent":
            _signal(command.pids("parent"), signal.SIGKILL)
        case "kill_all":
            _signal(command.all, signal.SIGKILL)
        case "stop_worker" | "stop_all":
            stopped = command.all if fault.kind == "stop_all" else rng.sample(workers, min(1, len(workers)))
            _signal(stopped, signal.SIGSTOP)
            other = Command(command.place / "other", command.parts, home).start()
            with suppress(TimeoutError):
                if rng.random() < 0.5:  # it wakes up in the middle of the other's work, or after it
                    time.sleep(rng.uniform(2.0, 40.0))
                else:
                    other.end()
            _signal(stopped, signal.SIGCONT)
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
            _signal(command.all, signal.SIGKILL)
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


def disturbed(fault: Fault, work: Path, parts: Path, template: Path, seconds: float, seed: int) -> Path:
    """Run, disturb and repeat until all is finished; returns the home."""
    rng, undo = random.Random(f"{seed} {fault.number} {fault.kind}"), Undo()
    place = work / f"fault-{fault.number}"
    shutil.rmtree(place, ignore_errors=True)
    home = new_home(place / "home", template)
    command = Command(place, parts, home).start()
    time.sleep(fault.at * seconds)
    inject(fault, command, rng, undo)
    outcomes = command.end()
    if undo.store is not None and fault.kind == "store_away" and undo.store.exists():
        os.replace(undo.store, home / "mlflow.db")
    while not outcomes or any(o["status"] != "finished" for o in outcomes):
        if fault.repeats == REPEATS:
            fault.lost.append(f"not finished after {REPEATS} repetitions: {outcomes}"[:600])
            return home
        fault.repeats += 1
        outcomes = Command(place, parts, home).start().end()
        _put_back(fault, undo, home, outcomes)
    if undo.flipped is not None:  # runs that were finished before the bit flipped are looked at by whoever reads them
        fault.told = fault.told or _told_by_reader(parts, home, undo.flipped[0])
        if fault.told and undo.flipped[0].exists() and undo.flipped[0].read_bytes() == undo.flipped[2]:
            undo.flipped[0].write_bytes(undo.flipped[1])
    if fault.kind in ("store_away", "store_gone"):  # what the store lacks follows with the next command
        fault.repeats += 1
        Command(place, parts, home).start().end()
    return home


def finished_and_flipped(fault: Fault, work: Path, parts: Path, seed: int) -> Path:
    """Flip a bit of finished runs, and read them; returns the home, the file put back when its damage was told."""
    rng, undo = random.Random(f"{seed} {fault.number} {fault.kind}"), Undo()
    home = work / f"fault-{fault.number}" / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(work / "straight" / "home", home)
    flip(fault, home, rng, undo)
    assert undo.flipped is not None
    file, before, _ = undo.flipped
    fault.told = _told_by_reader(parts, home, file)
    if fault.told:
        file.write_bytes(before)
    return home


def _put_back(fault: Fault, undo: Undo, home: Path, outcomes: list[dict[str, str]] | None) -> None:
    """When the damaged file was named, do what a person would do."""
    said = json.dumps(outcomes)
    if undo.flipped is not None and outcomes and str(undo.flipped[0]) in said and not fault.told:
        fault.told = next(o["message"] for o in outcomes if str(undo.flipped[0]) in o["message"])[:300]
        undo.flipped[0].write_bytes(undo.flipped[1])


def _told_by_reader(parts: Path, home: Path, file: Path) -> str:
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


# --- comparison -------------------------------------------------------------------------------------------------------


def results_in(home: Path, parts: Path) -> dict[str, Any]:
    """Everything of the runs in a home that must be equal, by name."""
    from vlm_ablate.home import Home
    from vlm_ablate.runs.results import find_results
    from vlm_ablate.storage import file_sha256

    found: dict[str, Any] = {}
    for spec in specs(parts):
        results = find_results(spec, Home(home))
        found[f"{spec.arm} status"] = results.status
        for stage in results.stages:
            name = f"{spec.arm} {(stage.manifest() or {}).get('stage')}"
            found[f"{name} weights"] = file_sha256(stage.weights) if stage.weights.exists() else None
            for file in sorted(stage.curve.glob("*.jsonl")):
                found[f"{name} {file.name}"] = file.read_text()
        entries = [(e.step, {k: v for k, v in e.values.items() if k not in NOT_COMPARED}) for e in results.entries()]
        found[f"{spec.arm} log"] = repr(entries)
        for key, score in results.scores:
            body = {k: v for k, v in (score.outcome() or {}).items() if k not in ("seconds", "ended_ms")}
            found[f"{spec.arm} {key.column} {key.mode} score"] = body
            found[f"{spec.arm} {key.column} {key.mode} predictions"] = score.predictions.read_text()
        found |= {f"{spec.arm} store {k}": v for k, v in _in_store(home, spec.id).items()}
    return found


def _in_store(home: Path, id: str) -> dict[str, Any]:
    with sqlite3.connect(f"file:{home}/mlflow.db?mode=ro", uri=True) as db:
        runs = db.execute(
            "SELECT r.run_uuid, r.status FROM runs r JOIN tags t ON r.run_uuid = t.run_uuid"
            " WHERE t.key = 'vlm.run' AND t.value = ? AND r.lifecycle_stage = 'active'", (id,)).fetchall()  # fmt: skip
        if len(runs) != 1:
            return {"runs": runs}
        query = "SELECT DISTINCT key, step, value FROM metrics WHERE run_uuid = ? ORDER BY key, step, value"
        points = [row for row in db.execute(query, (runs[0][0],)) if row[0] not in NOT_COMPARED]
    return {"status": runs[0][1], "points": repr(points)}


def new_home(folder: Path, template: Path) -> Path:
    """A home with an empty store."""
    folder.mkdir(parents=True)
    shutil.copyfile(template, folder / "mlflow.db")
    return folder


# --- the whole --------------------------------------------------------------------------------------------------------


def prepare(work: Path) -> tuple[Path, Path]:
    """The parts of the models and an empty store."""
    _context.set_forkserver_preload(["training.squares", "vlm_ablate.runs.execute", "vlm_ablate.launch.worker",
                                     "vlm_ablate.launch.campaign", "vlm_ablate.launch.local", "mlflow",
                                     "mlflow.tracking", "matplotlib.figure", "vlm_ablate.accounting"])  # fmt: skip
    from training.squares import save_parts

    from vlm_ablate.tracking.store import ensure_store

    parts, template = work / "parts", work / "template.db"
    if not (parts / "vision").exists():
        save_parts(parts)
    ensure_store(f"sqlite:///{template}")
    return parts, template


def undisturbed(work: Path, parts: Path, template: Path) -> tuple[dict[str, Any], float]:
    """What an undisturbed run leaves, and how long it takes; the first of two warms up."""
    for name in ("warm", "straight"):
        shutil.rmtree(work / name, ignore_errors=True)
        home, started = new_home(work / name / "home", template), time.monotonic()
        outcomes = Command(work / name, parts, home).start().end()
        seconds = time.monotonic() - started
        assert outcomes and all(o["status"] == "finished" for o in outcomes), outcomes
    expected = results_in(home, parts)
    assert all(expected[f"{spec.arm} status"] == "finished" for spec in specs(parts)), expected
    return expected, seconds


def run(faults: int, seed: int, minutes: float, kinds: list[str], out: Path, work: Path) -> list[Fault]:
    """Do the faults that are not done yet; returns all of them."""
    done = [Fault(**row) for row in json.loads(out.read_text())["faults"]] if out.exists() else []
    begun = time.monotonic()
    parts, template = prepare(work)
    expected, seconds = undisturbed(work, parts, template)
    print(f"undisturbed: {seconds:.1f} s, {len(expected)} things to compare", flush=True)
    for number in range(len(done), faults):
        if time.monotonic() - begun > 60 * minutes:
            print(f"time is up after {len(done)} of {faults} faults", flush=True)
            break
        rng = random.Random(f"{seed} {number}")
        fault = Fault(number, kinds[number % len(kinds)], round(rng.uniform(0.05, 1.0), 3))
        started = time.monotonic()
        try:
            if fault.kind == "flip_finished":
                home = finished_and_flipped(fault, work, parts, seed)
            else:
                home = disturbed(fault, work, parts, template, seconds, seed)
            found = results_in(home, parts)
            fault.lost += [name for name in expected if found.get(name) != expected[name]]
        except Exception as error:
            fault.lost.append(f"{type(error).__name__}: {error}"[:600])
        fault.seconds = round(time.monotonic() - started, 1)
        done.append(fault)
        if not fault.lost:
            shutil.rmtree(work / f"fault-{number}", ignore_errors=True)
        came = f"LOST: {'; '.join(fault.lost)[:300]}" if fault.lost else "nothing lost"
        told = f"; told: {fault.told[:120]}" if fault.told else ""
        print(f"{number + 1:3}/{faults} {fault.kind:11} at {fault.at:4.0%} {fault.seconds:5.1f} s, repeated"
              f" {fault.repeats}x {fault.detail} {came}{told}", flush=True)  # fmt: skip
        out.write_text(json.dumps({"seed": seed, "faults": [asdict(f) for f in done]}, indent=1) + "\n")
    return done


def main() -> int:
    """Parse the command line, run, print the sum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--launcher", choices=["local"], default="local")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--work", type=Path, default=Path("outputs/faults"), help="homes of faults that lost something")
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    done = run(args.faults, args.seed, args.minutes, args.kinds.split(","), args.out, args.work)
    lost = [fault for fault in done if fault.lost]
    by_kind = {kind: sum(f.kind == kind for f in done) for kind in dict.fromkeys(f.kind for f in done)}
    print(f"{len(done)} faults ({', '.join(f'{n} {kind}' for kind, n in by_kind.items())}): {len(lost)} lost something")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
