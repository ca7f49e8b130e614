"""What stored features of a frozen encoder save: laptop runs of several arms on one encoder, with and without.

Two questions, each of fresh home folders and a process' CPU seconds, with and without taking turns run by run:

    arms    four connector arms on one frozen encoder, cold start, against four separate runs (each its own home)
    second  the second arm of a table: training, curve, evaluation, blind and ceiling, against the same arm alone

"Without" is `execution.features: off` and no shared answers of prompts without images (a home of its own). The scores
of both are compared before anything is reported.

    python benchmarks/features.py [--rounds 3] [--steps 400] [--limit 300] [--json benchmarks/results/features.json]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.home import Home
from vlm_ablate.provenance import library_versions, machine
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.spec import RunSpec, specs_of
from vlm_ablate.storage import write_atomically
from vlm_ablate.tracking.store import ensure_store
from vlm_ablate.training.fit import configure_threads

EXPERIMENT = Path(__file__).parents[1] / "experiments/idefics2/t03_architecture.yaml"
CONNECTORS = ("linear", "mlp", {"name": "perceiver", "latents": 8}, {"name": "pixel_shuffle", "factor": 2})
TARGETS = {"arms": 1.3, "second": 1.5}
"""How many times faster."""


def specs(features: str, steps: int, limit: int) -> list[RunSpec]:
    """Four connectors on the frozen backbones of Table 3 at the laptop's scale."""
    sets = [
        f"stages.pretrain.steps={steps}",
        f"stages.pretrain.warmup_steps={min(20, steps // 10)}",
        f"execution.features={features}",
        f"evaluation.benchmarks.*.limit={limit}",
    ]
    loaded = load_experiment(EXPERIMENT, scale="laptop", sets=sets, arms=["ar_linear_frozen"])
    (base,) = specs_of(loaded, seeds=[0])
    made = []
    for number, connector in enumerate(CONNECTORS):
        plain = base.config.model_dump(mode="json")
        plain["model"]["connector"] = connector
        made.append(replace(base, arm=f"connector{number}", config=RunConfig.model_validate(plain)))
    return made


def fresh_home(root: Path, template: Path) -> Home:
    """An empty home with a tracking store."""
    home = Home(root).prepare()
    shutil.copyfile(template, home.database)
    return home


def ran(spec: RunSpec, home: Home) -> tuple[float, dict[str, float]]:
    """CPU seconds and scores of a run."""
    started = time.process_time()
    outcome = execute(spec, home=home)
    if outcome.status != "finished":
        raise SystemExit(f"{spec.arm}: {outcome.message}")
    return time.process_time() - started, dict(outcome.scores)


def compared(folder: Path, template: Path, steps: int, limit: int, *, kept_first: bool = True) -> dict[str, float]:
    """Ratios of one round: everything shared in one home against a home for each run, taking turns run by run."""
    shared = fresh_home(folder / "shared", template)
    kept, alone = [], []
    pairs = zip(specs("on", steps, limit), specs("off", steps, limit), strict=True)
    for number, (on, off) in enumerate(pairs):
        own = fresh_home(folder / f"alone{number}", template)
        turns = [(kept, on, shared), (alone, off, own)]
        for seconds, spec, home in turns if kept_first == (number % 2 == 0) else reversed(turns):
            seconds.append(ran(spec, home))
        if kept[-1][1] != alone[-1][1]:
            raise SystemExit(f"{on.arm}: the scores differ: {kept[-1][1]} and {alone[-1][1]}")
    ratio = sum(seconds for seconds, _ in alone) / sum(seconds for seconds, _ in kept)
    return {"arms": ratio, "second": alone[1][0] / kept[1][0]}


def main() -> None:
    """Print and write the medians; status 1 below a target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--limit", type=int, default=300, help="items of each benchmark")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    configure_threads()
    load_plugins([])
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        template = Path(place) / "mlflow.db"
        ensure_store(f"sqlite:///{template}")
        compared(Path(place) / "warm", template, 2, 2)  # pictures are drawn, imports done
        for number in range(asked.rounds):
            folder, kept_first = Path(place) / str(number), number % 2 == 0
            rounds.append(compared(folder, template, asked.steps, asked.limit, kept_first=kept_first))
            print(json.dumps(rounds[-1]), flush=True)
    medians = {name: median(each[name] for each in rounds) for name in TARGETS}
    for name, target in TARGETS.items():
        print(f"{name}: {medians[name]:.2f}x (at least {target}x)")
    if asked.json:
        body = {
            "steps": asked.steps,
            "limit": asked.limit,
            "rounds": rounds,
            "medians": medians,
            "targets": TARGETS,
            "machine": machine(),
            "versions": library_versions(),
        }
        write_atomically(asked.json, json.dumps(body, indent=1) + "\n")
    raise SystemExit(any(medians[name] < target for name, target in TARGETS.items()))


if __name__ == "__main__":
    main()
