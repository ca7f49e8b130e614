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

    python benchmarks/faults.py --launcher ray --faults 50

does the kills on a Ray cluster of two machines (both on this one), one of which may be lost, too. There every run is a
process of its own that imports everything: a fault costs about a minute on two cores.
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

from disturbed.faults import KINDS, RAY_KINDS, Fault, Undo, flip, inject, put_back, told_by_reader
from disturbed.processes import PATIENCE_SECONDS, Command, specs, warm_up
from disturbed.ray_cluster import RayCluster
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
    warm_up()
    return parts, template


def undisturbed(work: Path, parts: Path, template: Path) -> tuple[dict[str, Any], float]:
    """What an undisturbed run leaves, and how long it takes."""
    shutil.rmtree(work / "straight", ignore_errors=True)
    home, started = new_home(work / "straight" / "home", template), time.monotonic()
    Command.patience = 3600.0  # whatever the machine does besides
    outcomes = Command(work / "straight", parts, home).start().end()
    seconds = time.monotonic() - started
    assert outcomes and all(o["status"] == "finished" for o in outcomes), outcomes
    expected = results_in(home, parts)
    assert all(expected[f"{spec.arm} status"] == "finished" for spec in specs(parts)), expected
    return expected, seconds


def run(asked: list[Fault], seed: int, minutes: float, out: Path, work: Path) -> list[Fault]:
    """Do the faults; returns them and those that were done before, in the order of their numbers."""
    done = {fault.number: fault for fault in known(out)}
    begun = time.monotonic()
    parts, template = prepare(work)
    expected, seconds = undisturbed(work, parts, template)
    Command.patience = max(PATIENCE_SECONDS, 6 * seconds)  # a machine that is lost is missed after half a minute
    print(f"undisturbed: {seconds:.1f} s, {len(expected)} things to compare", flush=True)
    for turn, fault in enumerate(asked, 1):
        if time.monotonic() - begun > 60 * minutes:
            print(f"time is up after {turn - 1} of {len(asked)} faults", flush=True)
            break
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
        done[fault.number] = fault
        if not fault.lost:
            shutil.rmtree(work / f"fault-{fault.number}", ignore_errors=True)
        came = f"LOST: {'; '.join(fault.lost)[:300]}" if fault.lost else "nothing lost"
        told = f"; told: {fault.told[:120]}" if fault.told else ""
        print(f"{turn:3}/{len(asked)} number {fault.number} {fault.kind:11} at {fault.at:4.0%} {fault.seconds:5.1f} s,"
              f" repeated {fault.repeats}x {fault.detail} {came}{told}", flush=True)  # fmt: skip
        write(out, seed, [done[number] for number in sorted(done)])
    return [done[number] for number in sorted(done)]


def known(out: Path) -> list[Fault]:
    """The faults of a file of results; none without one."""
    return [Fault(**row) for row in json.loads(out.read_text())["faults"]] if out.exists() else []


def write(out: Path, seed: int, done: list[Fault]) -> None:
    """Write the faults, and what came of each kind in numbers."""
    kinds = {
        kind: {"tried": len(those), "lost": sum(bool(f.lost) for f in those), "told": sum(bool(f.told) for f in those)}
        for kind in dict.fromkeys(fault.kind for fault in done)
        if (those := [fault for fault in done if fault.kind == kind])
    }
    told = {"seed": seed, "kinds": kinds, "faults": [asdict(fault) for fault in done]}
    out.write_text(json.dumps(told, indent=1) + "\n")


def asked_for(faults: int, seed: int, kinds: list[str], before: list[Fault], again: bool) -> list[Fault]:
    """Those to be done: with `again` the ones that lost something, then the numbers that are missing."""
    old = [Fault(fault.number, fault.kind, fault.at) for fault in before if again and fault.lost]
    missing = sorted(set(range(faults)) - {fault.number for fault in before})
    return old + [
        Fault(number, kinds[number % len(kinds)], round(random.Random(f"{seed} {number}").uniform(0.05, 1.0), 3))
        for number in missing
    ]


def main() -> int:
    """Parse the command line, run, print the sum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--launcher", choices=["local", "ray"], default="local")
    parser.add_argument("--again", action="store_true", help="do those that lost something once more")
    parser.add_argument("--kinds", help=f"separated by commas; local: {', '.join(KINDS)}; ray: {', '.join(RAY_KINDS)}")
    parser.add_argument("--work", type=Path, default=Path("outputs/faults"), help="homes of faults that lost something")
    parser.add_argument("--out", type=Path, default=Path("faults.json"))
    args = parser.parse_args()
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    possible = RAY_KINDS if args.launcher == "ray" else KINDS
    kinds = args.kinds.split(",") if args.kinds else list(possible)
    if unknown := set(kinds) - {*possible}:
        parser.error(f"no kind of fault with --launcher {args.launcher}: {', '.join(sorted(unknown))}")
    asked = asked_for(args.faults, args.seed, kinds, known(args.out), args.again)
    if args.launcher == "ray":
        Command.cluster = RayCluster()
    try:
        done = run(asked, args.seed, args.minutes, args.out, args.work)
    finally:
        if Command.cluster is not None:
            Command.cluster.close()
    lost = [fault for fault in done if fault.lost]
    by_kind = {kind: sum(f.kind == kind for f in done) for kind in dict.fromkeys(f.kind for f in done)}
    print(f"{len(done)} faults ({', '.join(f'{n} {kind}' for kind, n in by_kind.items())}): {len(lost)} lost something")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
