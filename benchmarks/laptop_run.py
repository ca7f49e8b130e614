"""CPU time of a laptop's runs after the first, against another version of this package.

    git worktree add CHECKOUT d4a16e36 && pip install --no-deps --target FOLDER CHECKOUT
    python -m benchmarks.laptop_run --against FOLDER [--rounds 1] [--json FILE]

Four connectors on one frozen encoder (`laptop_run.yaml`): training, curve, evaluation, blind and ceiling. In a round
each version has an empty home, in which the first arm runs alone: pictures are drawn then, and the encoder's output and
the answers without pictures kept, where a version keeps them. Counted are user and system seconds of the command that
runs the other three, one at a time, with its worker.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.command import command_seconds
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.storage import write_atomically

ROOT = Path(__file__).parents[1]
FILE = Path(__file__).with_suffix(".yaml")
FIRST, OTHERS = "linear", "mlp,perceiver,pixel_shuffle"
TARGET = 1.5
"""How many times faster."""


def seconds(package: Path, home: Path, arms: str) -> float:
    """CPU seconds of one command."""
    arguments = ["run", str(FILE), "--scale", "paper", "--arms", arms, "--seeds", "0", "--jobs", "1"]
    return command_seconds(package, *arguments, home=home, folder=home.parent)[0]


def compared(against: Path, *, now_first: bool) -> dict[str, float]:
    """CPU seconds of one round: of the first arm, and of the others, before and now."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        versions = [("now", ROOT), ("before", against)]
        for which, arms in (("first", FIRST), ("others", OTHERS)):
            for name, package in versions if now_first else reversed(versions):
                found[f"{which} {name}"] = round(seconds(package, Path(place) / name, arms), 1)
    return found


def main() -> None:
    """Print and write the median; status 1 below the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="folder into which another version was installed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rounds = []
    for number in range(asked.rounds):
        rounds.append(compared(asked.against.absolute(), now_first=number % 2 == 1))
        print(json.dumps(rounds[-1]), flush=True)
    ratio = median(each["others before"] / each["others now"] for each in rounds)
    print(f"arms after the first: {ratio:.2f}x (at least {TARGET}x)")
    if asked.json:
        body: dict[str, object] = {"rounds": rounds, "ratio": ratio, "target": TARGET, "machine": machine()}
        body["versions"] = library_versions()
        write_atomically(asked.json, json.dumps(body, indent=1) + "\n")
    raise SystemExit(ratio < TARGET)


if __name__ == "__main__":
    main()
