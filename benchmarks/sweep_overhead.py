"""What a sweep costs beside its trials: scheduling per run, how busy two workers are kept, and locks under load.

    python -m benchmarks.sweep_overhead [--trials 40] [--seconds 1.0] [--steps 0] [--crowd 200]

1. A sweep of `--trials` trials whose runs wait `--seconds` each (or, with `--steps`, train the laptop experiment for so
   many steps) on two warm workers: seconds beside the runs, and the share of the time in which workers were busy.
   Starting the workers is left out: the clock runs from the end of the second trial.
2. `--crowd` trials of no work by four processes on one SQLite study: failed trials, and ms a trial.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from tests.runs.disk import write_results
from tests.sweeps.toys import Oracle, sweep, write_sweep
from vlm_ablate.events import Event, RunFinished
from vlm_ablate.home import Home
from vlm_ablate.launch.base import EXECUTE
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.launch.configs import LocalConfig
from vlm_ablate.launch.local import LocalLauncher
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.runner import SweepRunner
from vlm_ablate.sweeps.storage import default_storage
from vlm_ablate.sweeps.trials import SECONDS, open_studies

ROOT = Path(__file__).parents[1]
WAIT = "VLM_ABLATE_BENCHMARK_SECONDS"


def wait(spec: RunSpec, *, home: Home, reporter: object, tracking_uri: str) -> RunOutcome:
    """A run that takes a given time and computes nothing."""
    begun = time.monotonic()
    time.sleep(float(os.environ[WAIT]))
    return outcome_of(write_results(spec, home), trained=("train",), seconds=time.monotonic() - begun)


def busy(trials: int, seconds: float, steps: int) -> None:
    """Print overhead a run and the share of time in which two workers were busy."""
    os.environ[WAIT] = str(seconds)
    with tempfile.TemporaryDirectory() as folder:
        file = _real(Path(folder), trials, steps) if steps else write_sweep(Path(folder), budget={"trials": trials})
        home, loaded = Home(Path(folder) / "home").prepare(), load_sweep(file)
        studies = open_studies(loaded, home, default_storage(home, loaded.sweep.name))
        ends: list[float] = []
        taken: list[float] = []

        def ended(trial: object, *_: object) -> None:
            ends.append(time.monotonic())
            taken.append(float(trial.notes[SECONDS]))  # type: ignore[attr-defined]

        def hear(event: Event) -> None:
            if isinstance(event, RunFinished) and event.status == "failed":
                print("failed:", event.message)

        runner = SweepRunner(loaded, studies, 2, on_event=hear, on_end=ended)
        target = EXECUTE if steps else "benchmarks.sweep_overhead:wait"
        with Campaign(LocalLauncher(LocalConfig(jobs=2)), home, runner.hear, target=target) as campaign:
            runner.work(campaign)
    wall, work, runs = ends[-2] - ends[1], sum(taken[2:-1]), len(ends) - 3  # the last runs alone
    print(f"{len(ends)} trials of {work / max(1, runs):.2f} s: {2 * wall / max(1, runs) - work / max(1, runs):.2f} s "
          f"beside each run, two workers busy {work / (2 * wall):.0%} of the time")  # fmt: skip


def _real(folder: Path, trials: int, steps: int) -> Path:
    body = {
        "name": "busy",
        "experiment": {"file": str(ROOT / "experiments/idefics2/t03_architecture.yaml"), "arms": "ar_perceiver_frozen"},
        "set": {
            "stages.*.steps": steps, "stages.*.warmup_steps": 0, "data.mixture.*.source.rows": 8 * steps,
            "evaluation.curve": None, "evaluation.benchmarks.*.benchmark.items": 16, "evaluation.benchmarks.*.limit": 8,
        },
        "space": {"stages.pretrain.learning_rate": {"low": 3e-4, "high": 6e-3, "log": True}},
        "sampler": "random",
        "budget": {"trials": trials},
    }  # fmt: skip
    file = folder / "busy.yaml"
    file.write_text(yaml.safe_dump(body))
    return file


def crowd(trials: int, processes: int = 4) -> None:
    """Print how many trials of a crowd on one SQLite study failed, and what one took."""
    with tempfile.TemporaryDirectory() as folder:
        file, home = write_sweep(Path(folder), budget={"trials": trials}), Home(Path(folder) / "home").prepare()
        sweep(write_sweep(Path(folder), budget={"trials": 1}), home, Oracle())  # the study and the store are there
        write_sweep(Path(folder), budget={"trials": trials})
        command = [sys.executable, "-m", "tests.sweeps.worker", str(file), str(home.root), "", "0"]
        begun = time.monotonic()
        started = [subprocess.Popen(command, cwd=ROOT) for _ in range(processes)]
        statuses = [process.wait() for process in started]
        wall = time.monotonic() - begun
        loaded = load_sweep(file)
        (study,) = open_studies(loaded, home, default_storage(home, "toy"))
        states = [trial.state.name for trial in study.all()]
    told = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(states))
    print(f"{processes} processes, {len(states)} trials: {told}; exit statuses {statuses}; "
          f"{1000 * wall / len(states):.0f} ms a trial, starts of the processes included")  # fmt: skip


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--crowd", type=int, default=200)
    asked = parser.parse_args()
    if asked.trials:
        busy(asked.trials, asked.seconds, asked.steps)
    if asked.crowd:
        crowd(asked.crowd)


if __name__ == "__main__":
    main()
