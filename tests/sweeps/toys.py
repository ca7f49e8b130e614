"""A toy experiment, sweeps over it, and a launcher that computes a run at once: what sweeps are tested with."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.runs.disk import write_results
from vlm_ablate.events import CurvePoint
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Context, Launcher, Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.runs.outcome import RunOutcome, outcome_of
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.sweeps.loading import load_sweep
from vlm_ablate.sweeps.results import StudyResult, result_of
from vlm_ablate.sweeps.runner import SweepRunner
from vlm_ablate.sweeps.storage import default_storage
from vlm_ablate.sweeps.trials import open_studies

RATE = "stages.train.learning_rate"
RANK = "stages.train.lora.r"

EXPERIMENT: dict[str, Any] = {
    "name": "demo/toy",
    "title": "Toy",
    "plugins": ["tests.tracking.stub_parts"],
    "model": {"vision": "siglip-nano", "language": {"name": "hf", "id": "x/y"}, "connector": "mlp",
              "architecture": "autoregressive"},
    "stages": {"train": {"steps": 100, "batch_size": 4, "learning_rate": 1e-3, "lora": {"r": 8}}},
    "data": {"mixture": {"stub": {"source": {"name": "stub-source", "note": "toy"}}}},
    "evaluation": {"benchmarks": {name: {"benchmark": "stub-benchmark"} for name in ("vqa", "ocr")},
                   "curve": {"points": 4, "limit": 5}},
    "seeds": [0, 1],
    "arms": {"plain": {"label": "Plain"}, "lora": {"label": "LoRA", "set": {"stages.train.language": "lora"}}},
}  # fmt: skip

SWEEP: dict[str, Any] = {
    "name": "toy",
    "experiment": {"file": "toy.yaml", "arms": "plain", "scale": "paper"},
    "space": {RATE: {"low": 1e-4, "high": 1e-1, "log": True}},
    "sampler": "random",
    "budget": {"trials": 5},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep file beside the toy experiment; a change of None leaves a key out."""
    (folder / "toy.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    body = {key: value for key, value in {**SWEEP, **changes}.items() if value is not None}
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(body, sort_keys=False))
    return file


def quality(spec: RunSpec) -> float:
    """The score of a run: best at a learning rate of 1e-2, a little better with a higher seed."""
    rate = next(iter(spec.config.stages.values())).learning_rate
    return 60 - 10 * (math.log10(rate) + 2) ** 2 + 0.1 * spec.seed


class Watched(SweepRunner):
    """Tells when it has dealt with a score along the way."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.dealt_with: queue.SimpleQueue[CurvePoint] = queue.SimpleQueue()

    def _curve(self, point: CurvePoint) -> None:
        super()._curve(point)
        self.dealt_with.put(point)


class Oracle:
    """Computes a run at once: its score is a function of its configuration. Scores along the way grow to it."""

    def __init__(self, score: Callable[[RunSpec], float] = quality, *, curve: bool = False) -> None:
        self.score, self.curve = score, curve
        self.seconds = 100.0
        """That a run is said to have taken: far longer than it takes to make a trial ready."""
        self.computed: list[RunSpec] = []
        self.stopped: dict[str, int] = {}
        """Id of a run -> the point of its curve after which it was stopped."""
        self.runner: Watched | None = None

    def open(self, context: Context) -> None:
        self.context = context

    def submit(self, spec: RunSpec, placement: Placement) -> RunFuture:
        asked = threading.Event()
        future = RunFuture(spec, lambda _: asked.set())
        future.set_running_or_notify_cancel()
        self.computed.append(spec)
        if self.curve:
            threading.Thread(target=self._along_the_way, args=(spec, future, asked), daemon=True).start()
        else:
            self._end(spec, future)
        return future

    def _along_the_way(self, spec: RunSpec, future: RunFuture, asked: threading.Event) -> None:
        assert self.runner is not None and spec.config.evaluation.curve is not None
        points, steps = spec.config.evaluation.curve.points, sum(s.steps for s in spec.config.stages.values())
        for point in range(1, points + 1):
            value = self.score(spec) * point / points
            self.context.on_event(CurvePoint(spec.id, steps * point // points, {"curve/mean": value}))
            self.runner.dealt_with.get(timeout=120)
            if asked.is_set():
                self.stopped[spec.id] = point
                future.set_result(RunOutcome(spec.id, spec.run_name, "stopped"))
                return
        self._end(spec, future)

    def _end(self, spec: RunSpec, future: RunFuture) -> None:
        results = write_results(spec, self.context.home, score=self.score(spec))
        future.set_result(outcome_of(results, trained=("train",), seconds=self.seconds))

    def close(self, grace_seconds: float = 0.0) -> int:
        return 0


def sweep(file: Path, home: Home, launcher: Launcher, *, places: int = 1, uri: str | None = None) -> list[StudyResult]:
    """Work on a sweep until its budget is spent."""
    loaded = load_sweep(file)
    studies = open_studies(loaded, home, uri or default_storage(home, loaded.sweep.name))
    runner = Watched(loaded, studies, places)
    if isinstance(launcher, Oracle):
        launcher.runner = runner
    with Campaign(launcher, home, runner.hear) as campaign:
        runner.work(campaign)
    return [result_of(study.study, loaded.sweep.objective) for study in studies]
