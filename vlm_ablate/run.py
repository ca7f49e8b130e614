"""One RunSpec from start to finish: build, train its stages, evaluate, record; continued from wherever it stopped."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vlm_ablate import artifacts
from vlm_ablate.artifacts import Answered
from vlm_ablate.config.components import benchmarks
from vlm_ablate.config.spec import RunSpec
from vlm_ablate.config.stages import Stage, language_in_bf16
from vlm_ablate.data.dataset import Skips, build_mixture
from vlm_ablate.data.module import VLMDataModule, data_fingerprint
from vlm_ablate.errors import AssetMissing, Diverged, StorageError, TrackingError, VlmAblateError
from vlm_ablate.evaluation.benchmarks.base import Benchmark
from vlm_ablate.evaluation.evaluate import evaluate
from vlm_ablate.evaluation.predictions import read_predictions
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.events import (
    EvaluationProgress,
    Notice,
    Reporter,
    RunFinished,
    RunOutcome,
    RunStarted,
    Status,
    silent,
)
from vlm_ablate.finished import WEIGHTS_FILE
from vlm_ablate.home import Home, write_atomically
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.trained_state import save_trained
from vlm_ablate.models.vlm import VLM, build_vlm
from vlm_ablate.registry import load_plugins
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.logger import RunTracker
from vlm_ablate.tracking.reuse import find_reusable
from vlm_ablate.training.callbacks import StepMetrics
from vlm_ablate.training.counters import BatchFlops, Seen, flops_by_rates
from vlm_ablate.training.fit import configure_threads, training_device
from vlm_ablate.training.interruption import Interrupted, Interruption
from vlm_ablate.training.stages import Plan, curve_steps, steps_done, train_stages

__all__ = ["RunOutcome", "execute"]

TRACEBACK_FILE = "traceback.txt"


def execute(spec: RunSpec, *, home: Home, reporter: Reporter = silent, tracking_uri: str | None = None) -> RunOutcome:
    """Run a spec, or continue it, or hand back what it gave earlier.

    What goes wrong within the run is its outcome: a missing optional asset skips it, a diverged loss is recorded as
    such, any other error fails it with the message and the traceback as an artifact.

    Args:
        spec: what to run.
        home: where checkpoints, predictions and the local store are.
        reporter: hears the events.
        tracking_uri: None: the home's own store.

    Raises:
        StorageError: before anything expensive, when the home cannot be written.
        KeyboardInterrupt: on SIGINT or SIGTERM, after a checkpoint.
    """
    load_plugins(list(spec.plugins))
    home.prepare().run(spec.hash).prepare()
    interruption = Interruption()
    with home.run(spec.hash).locked(), interruption.handling_signals():
        known = _recorded(spec, tracking_uri or home.tracking_uri, reporter)
        outcome = known or _Run(spec, home, reporter, tracking_uri, interruption).complete()
    mean, message = outcome.mean, outcome.message
    reporter(RunFinished(spec.hash, outcome.status, mean, message, outcome.seconds, reused=outcome.reused))
    return outcome


def _recorded(spec: RunSpec, uri: str, reporter: Reporter) -> RunOutcome | None:
    """The outcome in the tracking store, if the run is over. A store that is away does not stop the run."""
    try:
        record = find_reusable([spec], uri)[0]
    except TrackingError as error:
        reporter(Notice(spec.hash, error.message, "warning"))
        return None
    return RunOutcome.from_record(record) if record else None


@dataclass
class _Throttle:
    """Lets an event through when `interval` seconds have passed."""

    interval: float = 0.2
    _last: float = 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.interval:
            return False
        self._last = now
        return True


class _Run:
    """The state of one execution."""

    def __init__(
        self, spec: RunSpec, home: Home, reporter: Reporter, tracking_uri: str | None, interruption: Interruption
    ) -> None:
        self.spec, self.config, self.reporter, self.interruption = spec, spec.config, reporter, interruption
        self.folder = home.run(spec.hash)
        self.steps = sum(stage.steps for stage in self.config.stages.values())
        self.started = time.monotonic()
        self.scores: list[ScoreRecord] = []
        self.ceilings: dict[str, float] = {}
        self.answered: list[Answered] = []
        self._benchmarks: dict[str, Benchmark] = {}
        self._skips: list[Skips] = []
        self.tracker = RunTracker.start(spec, home=home, tracking_uri=tracking_uri, notice=self._notice)

    def complete(self) -> RunOutcome:
        """Everything, ending in an outcome."""
        with self.tracker:
            try:
                self._work()
                return self._end("finished")
            except Interrupted as stop:
                raise KeyboardInterrupt(str(stop)) from None
            except AssetMissing as error:
                return self._end("skipped", str(error))
            except Diverged as error:
                return self._end("diverged", error.message)
            except VlmAblateError as error:
                return self._end("failed", str(error))
            except Exception as error:
                self._keep_traceback()
                return self._end("failed", f"{type(error).__name__}: {error}")

    def _work(self) -> None:
        configure_threads()
        config = self.config
        artifacts.write_config(self.spec, self.folder.artifacts / schema.CONFIG_FILE)
        self.tracker.log_artifact(self.folder.artifacts / schema.CONFIG_FILE)
        for column in config.evaluation.benchmarks:
            self._benchmark(column)  # a missing asset shows now, not after training
        mixture = build_mixture(config.data, self.spec.seeds.data)
        self._record_origins(mixture)
        flops = self._record_plan()  # parts that do not fit show now, before weights are read
        device = training_device()
        half = device.type == "cuda" and language_in_bf16(config.stages.values())
        vlm = build_vlm(
            config.model,
            config.data.image,
            seed=self.spec.seeds.init,
            language_dtype=torch.bfloat16 if half else torch.float32,
        ).to(device)
        plan = self._plan(vlm, mixture, flops)
        done = steps_done(plan)
        self.reporter(
            RunStarted(self.spec.hash, self.spec.run_name, self.spec.arm, self.spec.seed, self.steps, resumed_step=done)
        )
        seen = train_stages(plan)
        vlm.to(training_device())
        save_trained(vlm, self.folder.artifacts / schema.WEIGHTS_DIR / WEIGHTS_FILE)
        self._score(vlm)
        self._record_results(seen)

    def _plan(self, vlm: VLM, mixture: Any, flops: dict[str, BatchFlops]) -> Plan:
        def placeholders(height: int, width: int) -> int:
            return vlm.architecture.text_tokens(vlm.visual_tokens(height, width))

        def data(stage: Stage, start: int) -> VLMDataModule:
            module = VLMDataModule(
                self.config.data,
                stage,
                mixture=mixture,
                tokenizer=vlm.tokenizer,
                tokens_per_view=placeholders,
                mean=vlm.vision.mean,
                std=vlm.vision.std,
                start=start,
            )
            self._skips.append(module.skips)
            return module

        curve = self.config.evaluation.curve
        return Plan(
            vlm=vlm,
            stages=self.config.stages,
            data=data,
            apply_training=apply_training,
            folder=self.folder.checkpoints,
            run=self.spec.hash,
            init_seed=self.spec.seeds.init,
            dropout_seed=self.spec.seeds.dropout,
            reporter=self.reporter,
            track=self._track,
            interruption=self.interruption,
            flops=flops,
            curve_steps=curve_steps(self.steps, curve.points) if curve else (),
            measure=(lambda step, seen: self._measure(vlm, step, seen)) if curve else None,
        )

    # --- evaluation ---------------------------------------------------------------------------------------------------

    def _benchmark(self, column: str) -> Benchmark:
        if column not in self._benchmarks:
            self._benchmarks[column] = benchmarks.build(self.config.evaluation.benchmarks[column].benchmark)
        return self._benchmarks[column]

    def _score(self, vlm: VLM) -> None:
        """All benchmarks, with images and (if asked for) without, or with words in their place.

        What was answered before a kill is kept.
        """
        evaluation = self.config.evaluation
        for blind in (False, True) if evaluation.blind else (False,):
            for column, entry in evaluation.benchmarks.items():
                out = self.folder.predictions / f"{column}{'.blind' if blind else ''}.jsonl"
                record = self._evaluate(vlm, column, entry, out, blind=blind, state=self.spec.hash)
                self.scores.append(record)
                shown = islice(self._benchmark(column).items(entry.split), artifacts.EXAMPLES_PER_BENCHMARK)
                items = {} if blind else {item.id: item for item in shown}
                self.answered.append(Answered(column, blind, read_predictions(out), items))
        for column, entry in evaluation.benchmarks.items() if evaluation.ceiling else ():
            out = self.folder.predictions / f"{column}.described.jsonl"
            record = self._evaluate(vlm, column, entry, out, described=True, state=self.spec.hash)
            self.ceilings[schema.ceiling_metric(column)] = record.score

    def _measure(self, vlm: VLM, step: int, seen: Seen) -> None:
        """One point of the curve, on the tune split."""
        evaluation = self.config.evaluation
        columns = evaluation.curve.benchmarks or list(evaluation.benchmarks)
        values: dict[str, float] = {}
        for column in columns:
            entry = evaluation.benchmarks[column].model_copy(update={"split": "tune", "limit": evaluation.curve.limit})
            out = self.folder.predictions / "curve" / f"{column}.{step}.jsonl"
            record = self._evaluate(vlm, column, entry, out, blind=False, state=f"{self.spec.hash}@{step}", quiet=True)
            values[f"curve/{column}"] = record.score
        values["curve/mean"] = sum(values.values()) / len(values)
        self.tracker.log_metrics(values | _seen_metrics(seen), step)

    def _evaluate(
        self,
        vlm: VLM,
        column: str,
        entry: Any,
        out: Path,
        *,
        state: str,
        blind: bool = False,
        described: bool = False,
        quiet: bool = False,
    ) -> ScoreRecord:
        due = _Throttle()
        shown = f"{column} in words" if described else column

        def progress(done: int, total: int) -> None:
            if not quiet and (due() or done == total):
                self.reporter(EvaluationProgress(self.spec.hash, shown, done, total, blind))

        last_stage = list(self.config.stages.values())[-1]
        return evaluate(
            vlm,
            column,
            entry,
            self.config.evaluation,
            self.config.data,
            blind=blind,
            described=described,
            out=out,
            progress=progress,
            state=state,
            precision=last_stage.precision,
            benchmark=self._benchmark(column),
        )

    # --- recording ----------------------------------------------------------------------------------------------------

    def _track(self, metrics: StepMetrics) -> None:
        values = {
            schema.TRAIN_LOSS: metrics.loss,
            schema.TRAIN_GRAD_NORM: metrics.grad_norm,
            schema.TRAIN_LR: metrics.learning_rate,
            schema.TRAIN_TOKENS_PER_S: metrics.tokens_per_s,
        }
        self.tracker.log_metrics(values | _seen_metrics(metrics.seen), metrics.step)

    def _record_origins(self, mixture: Any) -> None:
        fingerprint = data_fingerprint(mixture)
        licences = {str(r.to_dict()): r.to_dict() for source in mixture.sources for r in source.licences}
        self.tracker.set_tags({schema.DATA_FINGERPRINT: fingerprint, schema.LICENCES: list(licences.values())})
        for name, source in zip(mixture.names, mixture.sources, strict=True):
            self.tracker.log_dataset(name, source.fingerprint)

    def _record_plan(self) -> dict[str, BatchFlops]:
        """Record the plan; returns what a batch costs in each stage, by the plan's rates."""
        from vlm_ablate.models.accounting import plan_model

        try:
            plan = plan_model(self.config)
        except VlmAblateError:
            raise
        except Exception as error:  # parts that cannot be built on the meta device may still train
            self._notice(f"no plan, and FLOPs are not counted: {type(error).__name__}: {error}")
            return {}
        artifacts.write_plan(plan, self.folder.artifacts / schema.PLAN_FILE)
        self.tracker.log_artifact(self.folder.artifacts / schema.PLAN_FILE)
        values = {
            schema.PARAMS_TOTAL: plan.last.total_parameters,
            schema.PARAMS_TRAINABLE: plan.last.trainable_parameters,
            schema.VISUAL_TOKENS: plan.visual_tokens_per_image,
            schema.FLOPS_PER_SAMPLE: plan.last.flops,
        }
        self.tracker.log_metrics({name: float(value) for name, value in values.items()}, 0)
        views = plan.sample.images * plan.views_per_image
        return {
            name: flops_by_rates(
                (stage.training_flops["vision"] + stage.training_flops["connector"]) / views,
                (stage.training_flops["language"] + stage.training_flops["cross_attention"]) / plan.sequence,
            )
            for name, stage in plan.stages.items()
        }

    def _record_results(self, seen: Seen) -> None:
        folder, tracker = self.folder.artifacts, self.tracker
        tracker.log_metrics(_seen_metrics(seen) | {schema.WALL_SECONDS: time.monotonic() - self.started}, self.steps)
        self._record_skips()
        tracker.log_scores(self.scores, self.steps)
        tracker.log_metrics(self.ceilings, self.steps)
        table = folder / schema.PREDICTIONS_DIR / "predictions.csv"
        table.parent.mkdir(exist_ok=True)
        artifacts.write_predictions(self.answered, table)
        tracker.log_artifact(table, schema.PREDICTIONS_DIR)
        examples = folder / schema.EXAMPLES_FILE
        artifacts.write_examples(self.answered, examples, f"{self.spec.label or self.spec.arm} · seed {self.spec.seed}")
        if examples.exists():
            tracker.log_artifact(examples)
        tracker.log_artifact(folder / schema.WEIGHTS_DIR / WEIGHTS_FILE, schema.WEIGHTS_DIR)

    def _record_skips(self) -> None:
        """Rows that this execution could not use and replaced by others."""
        skipped, read = (sum(getattr(s, name) for s in self._skips) for name in ("skipped", "read"))
        self.tracker.log_metrics({schema.DATA_SKIPPED: float(skipped)}, self.steps)
        if skipped:
            self._notice(f"{self.spec.run_name}: {skipped} of {read} samples cannot be used; others took their place")

    def _keep_traceback(self) -> None:
        path = self.folder.artifacts / TRACEBACK_FILE
        try:
            write_atomically(path, traceback.format_exc())
        except StorageError:
            return
        self.tracker.log_artifact(path)

    def _notice(self, message: str) -> None:
        self.reporter(Notice(self.spec.hash, message, "warning"))

    def _end(self, status: Status, message: str = "") -> RunOutcome:
        self.tracker.finish(status, message)
        scored = status == "finished"
        outcome = RunOutcome(
            run=self.spec.hash,
            name=self.spec.run_name,
            status=status,
            scores={r.column: r.score for r in self.scores if not r.blind} if scored else {},
            blind={r.column: r.score for r in self.scores if r.blind} if scored else {},
            message=message,
            tracking_run=self.tracker.run_id,
            seconds=time.monotonic() - self.started,
        )
        try:
            self.folder.write_outcome(outcome.to_dict())
        except StorageError as error:
            self._notice(error.message)
        return outcome


def _seen_metrics(seen: Seen) -> dict[str, float]:
    return {
        schema.SEEN_IMAGES: float(seen.images),
        schema.SEEN_TEXT_TOKENS: float(seen.text_tokens),
        schema.SEEN_VISUAL_TOKENS: float(seen.visual_tokens),
        schema.SEEN_FLOPS: seen.flops,
    }
