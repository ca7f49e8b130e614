"""The stages of one run: those that are there are loaded, the others trained, each in a folder named by its key."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from vlm_ablate.accounting.features import SEVERAL_RANKS
from vlm_ablate.config.decides import dump
from vlm_ablate.data.dataset import build_mixtures
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.data.module import data_fingerprint
from vlm_ablate.errors import Diverged
from vlm_ablate.events import Notice, Reporter, RunStarted, StageFinished, StageStarted
from vlm_ablate.home import Home
from vlm_ablate.lease_files import Owner
from vlm_ablate.models.adapters import count_parameters
from vlm_ablate.models.trained_state import save_trained
from vlm_ablate.models.vlm import VLM
from vlm_ablate.runs import artifacts
from vlm_ablate.runs.features import Decision, Features
from vlm_ablate.runs.folder import RunFolder, StageFolder, find_stage, leased
from vlm_ablate.runs.group import Group
from vlm_ablate.runs.job import stage_job, telling
from vlm_ablate.runs.keys import StageKey
from vlm_ablate.runs.log import Log
from vlm_ablate.runs.longer import continue_shorter, continued_from
from vlm_ablate.runs.rates import Rates, plan_run
from vlm_ablate.runs.results import find_stages, is_finished
from vlm_ablate.runs.score import Scoring
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.stage_model import StageModel, seen_before
from vlm_ablate.runs.started import started
from vlm_ablate.runs.starts import noted
from vlm_ablate.storage import file_sha256
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.origin import provenance_tags
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.counters import Seen, Stopwatch
from vlm_ablate.training.interruption import Interruption, StopRequested
from vlm_ablate.training.stages import StageJob, train_stage


class StageRunner:
    """Brings a run's model through its stages."""

    def __init__(
        self,
        spec: RunSpec,
        home: Home,
        scoring: Scoring,
        folder: RunFolder,
        reporter: Reporter,
        interruption: Interruption,
        waiting: Callable[[Owner | None], None],
    ) -> None:
        """
        Args:
            waiting: called now and then while another process trains a stage of this run.
        """
        self.spec, self.config, self.home = spec, spec.config, home
        self._scoring, self._folder = scoring, folder
        self._reporter, self._interruption, self._waiting = reporter, interruption, waiting
        self._stages = list(spec.config.stages.items())
        self._features = Features(spec, home)
        self._model = StageModel(spec, home, self._notice)
        self._group: Group | None = None
        """Of the ranks, once there is something to train."""
        self.trained: tuple[str, ...] = ()
        """Names of the stages that were trained here."""
        self.before = 0.0
        """Seconds that earlier processes had worked on these."""

    def run(self) -> StageFolder:
        """The folder of the last stage, trained now as far as it was not.

        Raises:
            Diverged: a loss is not finite or exploded; that is recorded.
            StopRequested: a stop was requested; the checkpoint is on disk.
            LeaseLost: another process goes on with a stage, as this one showed no life.
            AssetMissing: material or weights are not on this machine.
        """
        found = find_stages(self.spec, self.home)
        done = [stage for stage in found if is_finished(stage)]
        if not self._stages:
            return self._as_released(found)
        if len(done) == len(self._stages):
            self._start(found, len(done))
            return done[-1]
        data = {name: stage.data for name, stage in self._stages}
        mixtures = list(build_mixtures(data, self.spec.seeds.data).values())
        rates = self._plan()
        for source in dict.fromkeys(source for mixture in mixtures[len(done) :] for source in mixture.sources):
            source.prepare()
        self._start(found, len(done))
        folder = done[-1] if done else None
        try:
            for index in range(len(done), len(self._stages)):
                folder = self._stage(index, folder, mixtures[index], rates)
        except (Diverged, StopRequested):
            raise  # on all ranks
        except BaseException:
            if self._group is not None:
                self._group.abandon()
            raise
        finally:
            if self._group is not None:
                self._group.close()
                self._group = None
        assert folder is not None
        return folder

    def _as_released(self, found: Sequence[StageFolder]) -> StageFolder:
        """The folder of the checkpoint that is scored as it is: it has no weights of its own, only scores.

        Raises:
            AssetMissing: the checkpoint is not on this machine.
            ModelError: it does not fit the assembly.
        """
        self._start(found, len(found))
        (key,), model = self.spec.stage_keys, self.config.model
        with leased(lambda: find_stage(self.home, key.key, key.fingerprints(self.home), None), self._waiting) as folder:
            if folder.outcome() is None:
                began, stopwatch = time.time_ns() // 1_000_000, Stopwatch()
                self._describe(folder, key, None)
                sizes = {schema.PARAMS_TOTAL: float(sum(count_parameters(self._model.released()).values()))}
                folder.end(
                    {
                        "stage": key.name,
                        "status": schema.FINISHED,
                        "init_from": started(model, self.home),
                        "sizes": sizes,
                        "provenance": provenance_tags(),
                        "execution": dump(self.config.execution, "execution"),
                        "started_ms": began,
                        "ended_ms": time.time_ns() // 1_000_000,
                        **stopwatch.spent(),
                    }
                )
        return folder

    def model(self, stage: StageFolder) -> VLM:
        """The model with the weights of a finished stage.

        Raises:
            ModelError: they are damaged.
        """
        if not self._stages:
            return self._model.released().eval()
        vlm = self._model.of(stage).eval()
        self._features.recall(self._stages[-1][0], stage.outcome())
        self._features.attach(vlm, self._stages[-1][0])
        return vlm

    def _start(self, found: Sequence[StageFolder], done: int) -> None:
        steps = [stage.steps for _, stage in self._stages]
        # Whether they are whole is looked at by who holds the stage's lease.
        checkpoints = CheckpointFiles(found[done].root).found() if len(found) > done else []
        begun, spec = checkpoints[-1][0] if checkpoints else 0, self.spec
        self._reporter(
            RunStarted(spec.id, spec.run_name, spec.arm, spec.seed, sum(steps), resumed_step=sum(steps[:done]) + begun)
        )

    def _stage(self, index: int, before: StageFolder | None, mixture: Mixture, rates: Rates) -> StageFolder:
        """Train one stage, or take it from whoever trains it now."""
        key, name = self.spec.stage_keys[index], before.root.name if before else None
        with leased(lambda: find_stage(self.home, key.key, key.fingerprints(self.home), name), self._waiting) as folder:
            outcome = folder.outcome()
            if outcome is not None and outcome["status"] == schema.DIVERGED:
                raise Diverged(str(outcome["message"]))
            if outcome is None:
                self._train(index, key, folder, before, mixture, rates)
        return folder

    def _train(
        self,
        index: int,
        key: StageKey,
        folder: StageFolder,
        before: StageFolder | None,
        mixture: Mixture,
        rates: Rates,
    ) -> None:
        name, stage = self._stages[index]
        began, stopwatch = time.time_ns() // 1_000_000, Stopwatch()
        if folder.manifest() is None:
            self._describe(folder, key, before)
        if self._group is None:
            self._group = Group(self.spec, self.home)
        group = self._group
        group.train(index, before, rates.flops.get(name))
        vlm = self._model.ready(index, before, group.ranks)
        seen = start = seen_before(before)
        if group.several:  # as many as it was launched with
            self._features.decisions[name] = Decision(False, SEVERAL_RANKS)
        kept = self._features.attach_for(vlm, name, mixture, seen.sequences)
        self._reporter(StageStarted(self.spec.id, name, index, len(self._stages), stage.steps))
        body = self._body(index, vlm, mixture, kept, group)
        body |= {"started_ms": began, "sizes": rates.sizes.get(name, {})}
        files = CheckpointFiles(folder.root, self._notice)
        done = files.step()
        if not done and self._continue_shorter(index, folder, before):
            done = files.step()
        if continued := continued_from(folder, done):
            body["continued"] = continued
        job = stage_job(
            self._model, index, vlm, mixture, seen, checkpoints=files, interruption=self._interruption,
            flops=rates.flops.get(name), ranks=group.ranks, stopwatch=stopwatch,
        )  # fmt: skip
        try:
            with closing(Log(folder.log)) as log:
                log.rewind(job.first_step + done)
                speed = rates.speed(name, stored=kept.on)
                job = telling(job, self.spec, folder, log, self._reporter, self._scoring, speed)
                seen = self._in_step(job, group)
        except Diverged as error:
            end = {"status": schema.DIVERGED, "message": error.message, "seen": seen.to_dict()}
            folder.end(body | end | stopwatch.spent() | {"ended_ms": time.time_ns() // 1_000_000})
            raise
        finally:
            self.before += stopwatch.before
        save_trained(vlm, folder.weights)
        self._model.trained(None if group.ranks.sharded else folder)
        self.trained += (name,)
        skipped = seen.skipped - start.skipped
        self._told(seen.sequences - start.sequences + skipped, skipped)
        if vlm.attended_apart:
            body["execution"] |= {"attention_apart": self._apart(name, vlm)}
        folder.end(
            body
            | {
                "status": schema.FINISHED,
                "seen": seen.to_dict(),
                "skipped": skipped,
                "weights_sha256": file_sha256(folder.weights),
                **stopwatch.spent(),
                "ended_ms": time.time_ns() // 1_000_000,
            }
        )
        files.clear(but=stage.steps if job.continuable else None)
        self._reporter(StageFinished(self.spec.id, name, key.key))

    def _body(self, index: int, vlm: VLM, mixture: Mixture, kept: Decision, group: Group) -> dict[str, Any]:
        """What is recorded of a stage, however it ends: from what, on what and how it is trained."""
        name, _ = self._stages[index]
        body: dict[str, Any] = {
            "stage": name,
            "provenance": provenance_tags(),
            "execution": dump(self.config.execution.of_stage(name), "execution")
            | {"attention": vlm.attention, "stored_features": {"on": kept.on, "why": kept.reason}}
            | ({"strategy": group.ranks.place.strategy} if group.several else {}),
            "data_fingerprint": data_fingerprint(mixture),
            "datasets": {n: s.fingerprint for n, s in zip(mixture.names, mixture.sources, strict=True)},
            "licences": [record.to_dict() for source in mixture.sources for record in source.licences],
        }
        if index == 0 and self.config.model.init_from:
            body["init_from"] = started(self.config.model, self.home)
        return body

    def _continue_shorter(self, index: int, folder: StageFolder, before: StageFolder | None) -> bool:
        """Let a stage that has not begun go on from a shorter one; whether there is one."""
        found = continue_shorter(
            self.spec, index, folder, before, self.home, self._scoring.curve_metrics(), self._notice
        )  # fmt: skip
        if found is None:
            return False
        name, (ended, steps) = self._stages[index][0], found
        told = f"{self.spec.run_name}: stage {name!r} goes on after the {steps} steps of {ended.root.name}"
        self._reporter(Notice(self.spec.id, told, "info"))
        return True

    def _describe(self, folder: StageFolder, key: StageKey, before: StageFolder | None) -> None:
        starts = noted(self.config.model, self.home)
        folder.describe(
            {
                "stage": key.name,
                "before": before.root.name if before else None,
                "inputs": key.inputs,
                "fingerprints": key.fingerprints(self.home),
                **({"starts": starts} if starts else {}),
            }
        )

    def _in_step(self, job: StageJob, group: Group) -> Seen:
        """Train with all ranks. One that fails is the reason of what fails here then."""
        try:
            return train_stage(job)
        except (Diverged, StopRequested):
            raise
        except Exception as error:
            raise group.blame(error) from error

    def _plan(self) -> Rates:
        """What the plan says of each stage; it is kept for people, too.

        Raises:
            VlmAblateError: see `plan_run`.
        """
        plan = plan_run(self.config, self.home, self._notice)
        if plan is None:
            return Rates()
        artifacts.write_plan(plan, self._folder.artifacts / schema.PLAN_FILE)
        self._features.plan(plan)
        return Rates.of(plan)

    def _apart(self, name: str, vlm: VLM) -> str:
        """Why the kernel that was chosen did not compute all attention of a stage; it is told, too."""
        why = "; ".join(sorted(vlm.attended_apart))
        self._notice(f"stage {name!r}: attention was not all computed by {vlm.attention}, but by document: {why}")
        return why

    def _told(self, read: int, skipped: int) -> None:
        if skipped:
            self._notice(f"{self.spec.run_name}: {skipped} of {read} samples cannot be used; others took their place")

    def _notice(self, message: str) -> None:
        self._reporter(Notice(self.spec.id, message, "warning"))
