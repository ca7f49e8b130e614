"""All evaluations of one run: its scores with images, without, and in words; and the points of its curve."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from vlm_ablate.config.evaluation import BenchmarkEntry
from vlm_ablate.evaluation.benchmarks.base import Benchmark
from vlm_ablate.evaluation.evaluate import evaluate
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.events import EvaluationProgress, Reporter, Throttle
from vlm_ablate.home import RunFolder
from vlm_ablate.models.vlm import VLM
from vlm_ablate.provenance import AssetRecord
from vlm_ablate.registry import benchmarks
from vlm_ablate.runs.artifacts import EXAMPLES_PER_BENCHMARK, Answered
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.tracking import schema


class Scoring:
    """Evaluates the model of one run; what was answered before a kill is kept in the run's folder.

    Raises:
        AssetMissing: on construction, when a benchmark's material is not on this machine.
    """

    def __init__(self, spec: RunSpec, folder: RunFolder, reporter: Reporter) -> None:
        self._spec, self._folder, self._reporter = spec, folder, reporter
        self._evaluation = spec.config.evaluation
        self._benchmarks: dict[str, Benchmark] = {
            column: benchmarks.build(entry.benchmark) for column, entry in self._evaluation.benchmarks.items()
        }
        self.scores: list[ScoreRecord] = []
        """With images, then blind."""
        self.ceilings: dict[str, float] = {}
        """Metric name -> score of the language model that is told what the images show."""
        self.answered: list[Answered] = []
        """The predictions behind `scores`."""

    @property
    def licences(self) -> list[AssetRecord]:
        """Where the benchmarks' material comes from."""
        return [record for benchmark in self._benchmarks.values() for record in benchmark.licences]

    def score(self, vlm: VLM) -> None:
        """All benchmarks, with images and (if asked for) without, or with words in their place."""
        for blind in (False, True) if self._evaluation.blind else (False,):
            for column, entry in self._evaluation.benchmarks.items():
                name = f"{column}{'.blind' if blind else ''}.jsonl"
                self.scores.append(self._evaluate(vlm, column, entry, name, blind=blind))
                shown = islice(self._benchmarks[column].items(entry.split), EXAMPLES_PER_BENCHMARK)
                items = {} if blind else {item.id: item for item in shown}
                answers = read_predictions(self._folder.predictions / name)
                self.answered.append(Answered(column, blind, answers, items, entry.benchmark.name))
        for column, entry in self._evaluation.benchmarks.items() if self._evaluation.ceiling else ():
            record = self._evaluate(vlm, column, entry, f"{column}.described.jsonl", described=True)
            self.ceilings[schema.ceiling_metric(column)] = record.score

    def curve_point(self, vlm: VLM, step: int) -> dict[str, float]:
        """Metric name -> score of the model as it is at `step`, on the tune split, with the mean last."""
        curve, values = self._evaluation.curve, {}
        for column in curve.benchmarks or self._evaluation.benchmarks:
            entry = self._evaluation.benchmarks[column].model_copy(update={"split": "tune", "limit": curve.limit})
            record = self._evaluate(vlm, column, entry, f"curve/{column}.{step}.jsonl", step=step)
            values[f"curve/{column}"] = record.score
        return values | {"curve/mean": sum(values.values()) / len(values)}

    def _evaluate(
        self,
        vlm: VLM,
        column: str,
        entry: BenchmarkEntry,
        file: str,
        *,
        blind: bool = False,
        described: bool = False,
        step: int | None = None,
    ) -> ScoreRecord:
        """One benchmark; `step` marks a point of the curve, which is not shown."""
        run, config = self._spec.hash, self._spec.config
        return evaluate(
            vlm,
            column,
            entry,
            self._evaluation,
            self._evaluation.preparation(column),
            batch_size=config.execution.evaluation_batch_size,
            blind=blind,
            described=described,
            out=self._folder.predictions / file,
            progress=self._progress(f"{column} in words" if described else column, blind, quiet=step is not None),
            state=run if step is None else f"{run}@{step}",
            precision=list(config.stages.values())[-1].precision,
            benchmark=self._benchmarks[column],
        )

    def _progress(self, shown: str, blind: bool, *, quiet: bool) -> Callable[[int, int], None]:
        due = Throttle()

        def progress(done: int, total: int) -> None:
            if not quiet and (due() or done == total):
                self._reporter(EvaluationProgress(self._spec.hash, shown, done, total, blind))

        return progress
