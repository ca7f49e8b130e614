"""One RunSpec from start to finish: build, train its stages, evaluate, record; continued from wherever it stopped."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

import torch

from vlm_ablate.checkpoints.released import started_from
from vlm_ablate.checkpoints.start_from import started_vlm
from vlm_ablate.config.execution import Execution
from vlm_ablate.config.stages import Stage, language_in_bf16
from vlm_ablate.data.dataset import Skips, build_mixtures
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import VLMDataModule
from vlm_ablate.errors import AssetMissing, Diverged, StorageError, TrackingError, VlmAblateError
from vlm_ablate.evaluation.record import ScoreRecord
from vlm_ablate.events import Notice, Preparing, Reporter, RunFinished, RunStarted, Status, Throttle, listening, silent
from vlm_ablate.home import Home
from vlm_ablate.models.adapters import apply_training
from vlm_ablate.models.trained_state import save_trained
from vlm_ablate.models.views import Views
from vlm_ablate.models.vlm import VLM
from vlm_ablate.registry import load_plugins
from vlm_ablate.runs.find import WEIGHTS_FILE
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.record import Recording
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import write_atomically
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.logger import RunTracker
from vlm_ablate.tracking.records import RunRecord
from vlm_ablate.tracking.reuse import find_reusable
from vlm_ablate.training.counters import BatchFlops, Seen
from vlm_ablate.training.fit import configure_threads, training_device
from vlm_ablate.training.interruption import Interruption, StopRequested
from vlm_ablate.training.stages import TrainingJob, curve_steps, steps_done, train_stages

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
    if record and spec.config.model.init_from:
        _check_start(record, spec, reporter)
    return RunOutcome.from_record(record) if record else None


def _check_start(record: RunRecord, spec: RunSpec, reporter: Reporter) -> None:
    """Say so when the checkpoint that the run started from is not the one that is at its place now."""
    then = schema.read_json_tag(record.tags, schema.INIT_FROM)
    try:
        changed = then is not None and then != started_from(spec.config.model.init_from)
    except VlmAblateError:  # it was there when the run was trained, and need not be now
        return
    if changed:
        message = f"{spec.run_name} was trained from other weights than those in {spec.config.model.init_from!r} now"
        reporter(Notice(spec.hash, message, "warning"))


def _adapt(vlm: VLM, stage: Stage, execution: Execution) -> None:
    apply_training(vlm, stage, gradient_checkpointing=execution.gradient_checkpointing)


class _Run:
    """The state of one execution."""

    def __init__(
        self, spec: RunSpec, home: Home, reporter: Reporter, tracking_uri: str | None, interruption: Interruption
    ) -> None:
        self.spec, self.config, self.reporter, self.interruption = spec, spec.config, reporter, interruption
        self.folder = home.run(spec.hash)
        self.steps = sum(stage.steps for stage in self.config.stages.values())
        self.started = time.monotonic()
        self._skips: list[Skips] = []
        self._due = Throttle()
        self.tracker = RunTracker.start(spec, home=home, tracking_uri=tracking_uri, notice=self._notice)
        self.recording = Recording(spec, self.folder, self.tracker, self._notice)

    def complete(self) -> RunOutcome:
        """Everything, ending in an outcome."""
        with self.tracker, listening(self._preparing):
            try:
                return self._end("finished", scores=self._work())
            except StopRequested as stop:
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

    def _work(self) -> list[ScoreRecord]:
        configure_threads()
        config = self.config
        self.recording.config()
        scoring = Scoring(self.spec, self.folder, self.reporter)  # a missing asset shows now, not after training
        data = {name: stage.data for name, stage in config.stages.items()}
        mixtures = build_mixtures(data, self.spec.seeds.data)
        self.recording.origins(mixtures.values(), scoring)
        flops = self.recording.plan()  # parts that do not fit show now, before weights are read
        self.recording.start()
        device = training_device()
        half = device.type == "cuda" and language_in_bf16(config.stages.values())
        for source in dict.fromkeys(source for mixture in mixtures.values() for source in mixture.sources):
            source.prepare()
        vlm = started_vlm(
            config.model,
            Views.of(config.images()),
            seed=self.spec.seeds.init,
            language_dtype=torch.bfloat16 if half else torch.float32,
        ).to(device)
        plan = self._plan(vlm, mixtures, flops, scoring)
        done = steps_done(plan)
        self.reporter(
            RunStarted(self.spec.hash, self.spec.run_name, self.spec.arm, self.spec.seed, self.steps, resumed_step=done)
        )
        seen = train_stages(plan)
        vlm.to(training_device())
        save_trained(vlm, self.folder.artifacts / schema.WEIGHTS_DIR / WEIGHTS_FILE)
        scoring.score(vlm)
        self.recording.results(scoring, seen, self._skips, time.monotonic() - self.started)
        return scoring.scores

    def _plan(
        self, vlm: VLM, mixtures: dict[str, Mixture], flops: dict[str, BatchFlops], scoring: Scoring
    ) -> TrainingJob:
        config = self.config

        def data(stage: str, start: int) -> VLMDataModule:
            module = VLMDataModule(
                config.stages[stage],
                execution=config.execution.of_stage(stage),
                mixture=mixtures[stage],
                tokenizer=vlm.tokenizer,
                tokens_per_view=vlm.placeholders,
                mean=vlm.vision.mean,
                std=vlm.vision.std,
                start=start,
            )
            self._skips.append(module.skips)
            return module

        def measure(step: int, seen: Seen) -> None:
            self.recording.curve(step, scoring.curve_point(vlm, step), seen)

        curve = config.evaluation.curve
        return TrainingJob(
            vlm=vlm,
            stages=config.stages,
            execution=config.execution,
            data=data,
            apply_training=_adapt,
            folder=self.folder.checkpoints,
            run=self.spec.hash,
            init_seed=self.spec.seeds.init,
            dropout_seed=self.spec.seeds.dropout,
            reporter=self.reporter,
            track=self.recording.step,
            interruption=self.interruption,
            flops=flops,
            curve_steps=curve_steps(self.steps, curve.points) if curve else (),
            measure=measure if curve else None,
        )

    def _preparing(self, what: str, done: int, total: int) -> None:
        if self._due() or done == total:
            self.reporter(Preparing(self.spec.hash, what, done, total))

    def _keep_traceback(self) -> None:
        path = self.folder.artifacts / TRACEBACK_FILE
        try:
            write_atomically(path, traceback.format_exc())
        except StorageError:
            return
        self.tracker.log_artifact(path)

    def _notice(self, message: str) -> None:
        self.reporter(Notice(self.spec.hash, message, "warning"))

    def _end(self, status: Status, message: str = "", scores: Sequence[ScoreRecord] = ()) -> RunOutcome:
        self.recording.sizes()
        self.tracker.finish(status, message)
        outcome = RunOutcome(
            run=self.spec.hash,
            name=self.spec.run_name,
            status=status,
            scores={r.column: r.score for r in scores if not r.blind},
            blind={r.column: r.score for r in scores if r.blind},
            message=message,
            tracking_run=self.tracker.run_id,
            seconds=time.monotonic() - self.started,
        )
        try:
            self.folder.write_outcome(outcome.to_dict())
        except StorageError as error:
            self._notice(error.message)
        return outcome

