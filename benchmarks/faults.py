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
import os
import random
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from disturbed.faults import KINDS, Fault, Undo, flip, inject, put_back, told_by_reader
from disturbed.processes import Command, specs
from disturbed.results import new_home, results_in

REPEATS = 4


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
        put_back(fault, undo, home, outcomes)
    if undo.flipped is not None:  # runs that were finished before the bit flipped are looked at by whoever reads them
        fault.told = fault.told or told_by_reader(parts, home, undo.flipped[0])
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
    fault.told = told_by_reader(parts, home, file)
    if fault.told:
        file.write_bytes(before)
    return home


def prepare(work: Path) -> tuple[Path, Path]:
    """The parts of the models and an empty store."""
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
