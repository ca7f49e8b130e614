"""All evaluations of one run: its scores with images, without, and in words; and the points of its curve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from vlm_ablate.config.evaluation import BenchmarkEntry
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.evaluation.benchmarks.base import Benchmark
from vlm_ablate.evaluation.evaluate import Sharing, evaluate
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.evaluation.text_answers import LIMIT, TextAnswers
from vlm_ablate.events import EvaluationProgress, Reporter, Throttle
from vlm_ablate.lease_files import Owner
from vlm_ablate.models.vlm import VLM
from vlm_ablate.registry import benchmarks
from vlm_ablate.runs.artifacts import EXAMPLES_PER_BENCHMARK, Answered
from vlm_ablate.runs.folder import ScoreFolder, StageFolder, leased
from vlm_ablate.runs.keys import ScoreKey, curve_keys
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import file_sha256
from vlm_ablate.tracking import schema
from vlm_ablate.training.counters import Stopwatch


class _Shared:
    """What the benchmarks of one evaluation have in common; of a model as it is now.

    On a CPU `auto` leaves protocols of old as they were computed, to the last digit.
    """

    def __init__(self, vlm: VLM, config: RunConfig) -> None:
        asked, drawn = config.execution.shared_prompts, config.evaluation.demonstrations
        self.on = asked == "on" or (asked == "auto" and (vlm.device.type != "cpu" or drawn.selection == "fixed"))
        self._vlm, self._evaluation = vlm, config.evaluation
        self._sharings: dict[str, Sharing] = {}

    def of(self, column: str) -> Sharing | None:
        """Of one benchmark: the same for all whose pictures are prepared alike; None: nothing is shared."""
        if not self.on:
            return None
        image = self._evaluation.preparation(column).image
        if (name := image.model_dump_json()) not in self._sharings:
            self._sharings[name] = Sharing.of(self._vlm, image)
        return self._sharings[name]


def _counts(sharing: Sharing | None) -> tuple[int, int, int]:
    """Positions of prompts, those that were computed, pictures that were encoded."""
    if sharing is None:
        return 0, 0, 0
    return sharing.beginnings.positions, sharing.beginnings.computed, sharing.pictures.encoded


class Scoring:
    """Evaluates the model of one run; what was answered before a kill is kept in the folder of the score.

    Raises:
        AssetMissing: on construction, when a benchmark's material is not on this machine.
    """

    def __init__(self, spec: RunSpec, reporter: Reporter, answers: Path) -> None:
        """
        Args:
            answers: folder of the answers that runs share.
        """
        self._spec, self._reporter, self._answers = spec, reporter, answers
        self._evaluation = spec.config.evaluation
        self._benchmarks: dict[str, Benchmark] = {
            column: benchmarks.build(entry.benchmark) for column, entry in self._evaluation.benchmarks.items()
        }

    def missing(self, last: StageFolder) -> list[tuple[ScoreKey, ScoreFolder]]:
        """The scores of these weights that are not there yet."""
        asked = [(key, last.score(key.key, key.fingerprints())) for key in self._spec.score_keys]
        return [(key, folder) for key, folder in asked if folder.outcome() is None]

    def score(self, vlm: VLM, last: StageFolder, waiting: Callable[[Owner | None], None] | None = None) -> None:
        """Compute the scores that are missing, each once whoever asks for it.

        Args:
            waiting: called now and then while another process computes one.

        Raises:
            LeaseLost: another process computes one, as this one showed no life.
        """
        limit = min(LIMIT, int(self._spec.config.execution.features_gib * 2**30))
        texts, shared = TextAnswers(vlm, self._answers, limit=limit), _Shared(vlm, self._spec.config)
        for key, _ in self.missing(last):
            with leased(partial(last.score, key.key, key.fingerprints()), waiting) as folder:
                if folder.outcome() is None:
                    self._score(vlm, last, key, folder, texts, shared.of(key.column))

    def _score(
        self,
        vlm: VLM,
        last: StageFolder,
        key: ScoreKey,
        folder: ScoreFolder,
        texts: TextAnswers,
        sharing: Sharing | None,
    ) -> None:
        stopwatch, shared, before = Stopwatch(), texts.shared, _counts(sharing)
        if folder.manifest() is None:
            folder.describe({"inputs": key.inputs, "fingerprints": key.fingerprints()})
        entry, mode = self._evaluation.benchmarks[key.column], key.mode
        record = evaluate(
            vlm,
            key.column,
            entry,
            self._evaluation,
            self._evaluation.preparation(key.column),
            blind=mode == "blind",
            described=mode == "described",
            out=folder.predictions,
            progress=self._progress(f"{key.column} in words" if mode == "described" else key.column, mode == "blind"),
            state=last.root.name,
            precision=self._spec.config.scoring_precision,
            batch_size=self._spec.config.execution.evaluation_batch_size,
            benchmark=self._benchmarks[key.column],
            texts=texts,
            sharing=sharing,
        )
        licences = [r.to_dict() for r in self._benchmarks[key.column].licences]
        items = [None if p.score is None else round(p.score, 6) for p in read_predictions(folder.predictions)]
        body = {**record.to_dict(), "item_scores": items, "licences": licences, **stopwatch.spent()}
        body["shared_batches"] = texts.shared - shared
        if sharing is not None:
            done = (now - then for now, then in zip(_counts(sharing), before, strict=True))
            body["shared_prompts"] = dict(zip(("positions", "computed", "encoded"), done, strict=True))
        checked = file_sha256(folder.predictions)
        folder.end({**body, "ended_ms": time.time_ns() // 1_000_000, "predictions_sha256": checked})

    def curve_metrics(self) -> dict[str, str]:
        """Names of the scores that a point of the curve has -> how each is asked; none without a curve."""
        return {schema.curve_metric(column): key for column, key in curve_keys(self._spec.config).items()}

    def curve_point(self, vlm: VLM, stage: StageFolder, step: int) -> dict[str, float]:
        """Metric name -> score of the model as it is at `step`, on the tune split, with the mean last."""
        values: dict[str, float] = {}
        shared = _Shared(vlm, self._spec.config)
        for column in self._evaluation.curve_columns:
            entry = self._evaluation.along_the_way(column)
            scored = self._curve_score(vlm, stage, column, entry, step, shared.of(column))
            values[schema.curve_metric(column)] = scored.score
        return values | {schema.curve_metric(schema.MEAN): sum(values.values()) / len(values)}

    def _curve_score(
        self, vlm: VLM, stage: StageFolder, column: str, entry: BenchmarkEntry, step: int, sharing: Sharing | None
    ) -> ScoreRecord:
        return evaluate(
            vlm,
            column,
            entry,
            self._evaluation,
            self._evaluation.preparation(column),
            blind=False,
            out=stage.curve / f"{column}.{step}.jsonl",
            state=f"{stage.root.name}@{step} {curve_keys(self._spec.config)[column]}",
            precision=self._spec.config.scoring_precision,
            batch_size=self._spec.config.execution.evaluation_batch_size,
            benchmark=self._benchmarks[column],
            sharing=sharing,
        )

    def answered(self, last: StageFolder) -> Iterator[Answered]:
        """The predictions of all scores but those in words, with the first items of each benchmark."""
        for key in self._spec.score_keys:
            folder = last.score(key.key, key.fingerprints())
            if key.mode == "described" or folder.outcome() is None or not folder.predictions.exists():
                continue
            entry, blind = self._evaluation.benchmarks[key.column], key.mode == "blind"
            shown = islice(self._benchmarks[key.column].items(entry.split), EXAMPLES_PER_BENCHMARK)
            items = {} if blind else {item.id: item for item in shown}
            yield Answered(key.column, blind, read_predictions(folder.predictions), items, entry.benchmark.name)

    def _progress(self, shown: str, blind: bool) -> Callable[[int, int], None]:
        due = Throttle()

        def progress(done: int, total: int) -> None:
            if due() or done == total:
                self._reporter(EvaluationProgress(self._spec.id, shown, done, total, blind))

        return progress
