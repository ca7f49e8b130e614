"""More bad command lines than the tests try, from the same generator (`tests/safety/test_generated_input.py`).

    python benchmarks/bad_inputs.py --first 200 --count 200 [--minutes 20]

Prints each that ends in a traceback, hangs, has a wrong exit status or fails without a word, and how many there were.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> int:
    """Parse the command line, try, print."""
    from tests.safety.test_generated_input import draw, make_places, problem_of

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--first", type=int, default=200, help="number of the first; the tests try 0 to 199")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args()
    begun, tried, wrong = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "here").mkdir()
        os.chdir(Path(folder) / "here")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ["VLM_ABLATE_HOME"] = f"{folder}/home"
        for number in range(args.first, args.first + args.count):
            if time.monotonic() - begun > 60 * args.minutes:
                print("time is up")
                break
            place = Path(folder) / f"places-{number}"
            place.mkdir()
            problem = problem_of(draw(number), make_places(place))
            tried, wrong = tried + 1, wrong + bool(problem)
            if problem:
                print(f"{number}: {problem}", flush=True)
            elif tried % 20 == 0:
                print(f"{tried} of {args.count} tried, {wrong} wrong", file=sys.stderr, flush=True)
        os.chdir(ROOT)
    print(f"{tried} bad command lines: {wrong} ended wrongly")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
