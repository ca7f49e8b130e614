"""CPU time of `vlm-ablate table` over a thousand recorded runs: Idefics2's table 3, six arms with 170 seeds each.

    python -m benchmarks.table [--against FOLDER] [--seeds 170] [--rounds 3] [--home FOLDER] [--json FILE]

The runs are written as runs write them, without training, into a home that `--home` keeps, for a next call too.
Each command is a process of its own, of which user and system seconds are counted; code is compiled before the first.
`--against` is a checkout of another version, which takes turns with this one; it is said where their tables differ.
It must read what this one writes: versions up to 7b1ddca take its records for damaged.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.command import command_seconds
from tests.runs.disk import score_record, write_results
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.home import Home
from vlm_ablate.runs.keys import ScoreKey
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.spec import specs_of
from vlm_ablate.tracking import schema

ROOT = Path(__file__).parents[1]
TARGET = 3.0
"""CPU seconds at most."""
FILE = "idefics2/t03_architecture"


def record_with_items(key: ScoreKey, score: float) -> dict[str, Any]:
    """A score record with the scores by item that it is the mean of."""
    items = key.inputs["limit"] or 300
    right = round(score / 100 * items)
    values = [1.0] * right + [0.0] * (items - right)
    random.Random(key.key).shuffle(values)
    return score_record(key, score) | {"items": items, "score": 100 * right / items, "item_scores": values}


def write_home(root: Path, seeds: int) -> int:
    """Write the runs that are not there; returns how many there are."""
    home = Home.at(str(root))
    with looking_once():
        specs = specs_of(load_experiment(FILE), seeds=list(range(seeds)))
    for spec in specs:
        if (home.runs / spec.id).is_dir():
            continue
        points = [
            (step, {schema.TRAIN_LOSS: 2.0 - step / 400, "train/lr": 0.1, "train/grad_norm": 1.0})
            for step in range(10, 401, 10)
        ]
        points[-1][1].update({schema.curve_metric(schema.MEAN): 50.0, schema.SEEN_IMAGES: 1.0})
        score = 50 + random.Random(spec.id).gauss(0, 3)
        write_results(spec, home, score=score, points=points, seconds=100.0, record=record_with_items)
    return len(specs)


def seconds(checkout: Path, home: Path, seeds: int) -> tuple[float, bytes]:
    """CPU seconds of one command, and what it printed."""
    arguments = ["table", FILE, "--seeds", f"0-{seeds - 1}"]
    return command_seconds(checkout, *arguments, home=home, folder=checkout)


def compare(home: Path, seeds: int, against: Path | None, rounds: int) -> dict[str, float | None]:
    """Medians over rounds in which both take turns."""
    checkouts = {"before": against, "now": ROOT}
    taken: dict[str, list[float]] = {"before": [], "now": []}
    for turn in range(rounds + 1):
        texts = set()
        for name, checkout in checkouts.items():
            if checkout is not None:
                spent, printed = seconds(checkout, home, seeds)
                texts.add(printed)
                taken[name] += [spent] if turn else []  # the first compiles
        if len(texts) > 1 and not turn:
            print("the two versions print different tables", file=sys.stderr)
    return {name: round(median(values), 2) if values else None for name, values in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--seeds", type=int, default=170, help="of each of the six arms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, help="where the runs are written, or were by an earlier call")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    against = options.against.absolute() if options.against else None
    with tempfile.TemporaryDirectory() as folder:
        home = options.home.absolute() if options.home else Path(folder) / "home"
        runs = write_home(home, options.seeds)
        found = compare(home, options.seeds, against, options.rounds)
    before = "-" if found["before"] is None else f"{found['before']:.2f} s"
    print(f"table of {runs} runs: before {before}, now {found['now']:.2f} s of CPU; at most {TARGET:g} s")
    if options.json:
        body = {"machine": platform.processor() or platform.machine(), "runs": runs, "rounds": options.rounds,
                "cpu_seconds": found}  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return int((found["now"] or 0) > TARGET)


if __name__ == "__main__":
    sys.exit(main())
