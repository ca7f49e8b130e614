"""CPU time of `vlm-ablate plan` for five arms of Idefics2's table 3: planned anew, again, and by another version.

    python -m benchmarks.plan [--against FOLDER] [--rounds 3] [--json FILE]

Each command is a process of its own; counted are user and system seconds of it and its children. `anew` has an empty
home, `again` the home that `anew` left. `--against` is a checkout of another version, which takes turns with this one,
e.g. `git worktree add FOLDER 89824e1`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.command import command_seconds

ROOT = Path(__file__).parents[1]
TARGETS = {"laptop": 4.0, "paper": 6.0}
"""Scale -> CPU seconds at most."""
FILE = "experiments/idefics2/t03_architecture.yaml"
ARMS = "ar_linear_frozen,ar_perceiver_frozen,cross_attention_frozen,cross_attention_lora,ar_perceiver_lora"


def seconds(checkout: Path, scale: str, home: str) -> float:
    """CPU seconds of one command."""
    arguments = ["plan", FILE, "--scale", scale, "--arms", ARMS]
    return command_seconds(checkout, *arguments, home=home, folder=checkout)[0]


def compare(scale: str, against: Path | None, rounds: int) -> dict[str, float | None]:
    """Medians over rounds in which all take turns."""
    taken: dict[str, list[float]] = {"before": [], "anew": [], "again": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            if against:
                taken["before"].append(seconds(against, scale, f"{home}/before"))
            taken["anew"].append(seconds(ROOT, scale, f"{home}/now"))
            taken["again"].append(seconds(ROOT, scale, f"{home}/now"))
    return {name: round(median(values), 2) if values else None for name, values in taken.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--scales", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    options = parser.parse_args()
    results = {}
    print(f"{'scale':8}{'before':>10}{'anew':>10}{'again':>10}  at most")
    for scale in options.scales:
        against = options.against.absolute() if options.against else None
        found = results[scale] = compare(scale, against, options.rounds)
        cells = "".join(f"{'-' if value is None else f'{value:.2f} s':>10}" for value in found.values())
        print(f"{scale:8}{cells}  {TARGETS[scale]:g} s", flush=True)
    if options.json:
        body = {"machine": platform.processor() or platform.machine(), "rounds": options.rounds, "cpu_seconds": results}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    return int(any((found["again"] or 0) > TARGETS[scale] for scale, found in results.items()))


if __name__ == "__main__":
    sys.exit(main())
