"""Works on a sweep until its budget is spent: as many trials at a time as there are places, one seed after another."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import fmean
from typing import Any

from vlm_ablate.errors import AssetMissing, ConfigError, ModelError, VlmAblateError
from vlm_ablate.events import CurvePoint, Event
from vlm_ablate.launch.base import Placement, RunFuture
from vlm_ablate.launch.campaign import Campaign
from vlm_ablate.lease import LeaseLost
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.spec import RunSpec, Trial
from vlm_ablate.sweeps.cost import Cost, Costs, needs_cost, over_limits
from vlm_ablate.sweeps.loading import LoadedSweep
from vlm_ablate.sweeps.trials import (
    ATTEMPTS,
    INFEASIBLE,
    RUNS,
    SCORES,
    SECONDS,
    OpenTrial,
    StudyTrials,
    TooManyFailures,
)
from vlm_ablate.tracking import schema

FAILURES = 5
"""Trials that fail one after another before the sweep gives up."""
POLL_SECONDS = 2.0
"""Between two looks for trials of dead processes while there is nothing else to do."""
AHEAD_FROM = 0.02
"""Share of a trial's time that it may take to make the next one ready: below, a place waits for it; above, trials are
made ready ahead, which are proposed without what the running ones will show."""

TrialEnded = Callable[[OpenTrial, str, float | None, str], None]
"""Hears of each end of a trial here: the trial, its outcome, its objective (None without) and a message."""


@dataclass
class _Work:
    """A trial and how far it is."""

    trial: OpenTrial
    specs: list[RunSpec]
    cost: Cost | None = None
    future: RunFuture | None = None
    outcomes: list[RunOutcome] = field(default_factory=list)
    reported: set[int] = field(default_factory=set)
    pruned: bool = False
    deaths: int = 0

    @property
    def spec(self) -> RunSpec:
        """The run of the seed that is its turn."""
        return self.specs[len(self.outcomes)]


class SweepRunner:
    """One process's share of a sweep.

    Args:
        loaded: the sweep.
        studies: its studies.
        places: trials at a time.
        parent: the sweep's run in the tracking store.
        on_event: hears the events of the runs.
        on_end: hears of trials that have ended here.
        placement: of each run.
    """

    _costs: Costs
    """Of the home that is worked in."""

    def __init__(
        self,
        loaded: LoadedSweep,
        studies: Sequence[StudyTrials],
        places: int,
        *,
        parent: str = "",
        on_event: Callable[[Event], None] = lambda event: None,
        on_end: TrialEnded = lambda trial, outcome, value, message: None,
        placement: Placement | None = None,
    ) -> None:
        self.loaded, self.studies, self.places, self.parent = loaded, list(studies), places, parent
        self._on_event, self._on_end, self._placement = on_event, on_end, placement or Placement()
        self._news: queue.SimpleQueue[CurvePoint | RunFuture] = queue.SimpleQueue()
        self._open: list[_Work] = []
        self._stopping: set[RunFuture] = set()
        """Of runs whose trials were pruned; a further trial of the same values may have joined one since."""
        self._failures = 0
        self._ready_seconds = self._trial_seconds = 0.0
        """What the last trial took to be made ready, and the last that was computed to its end."""

    def hear(self, event: Event) -> None:
        """For the campaign, as what hears its events; from any thread."""
        if isinstance(event, CurvePoint):
            self._news.put(event)
        self._on_event(event)

    def work(self, campaign: Campaign) -> None:
        """Until the budget is spent and no trial of this home runs any more, here or in another process.

        Raises:
            TooManyFailures: one trial after another fails.
            StorageError: the home cannot be written.
        """
        self._costs = Costs(campaign.home)
        try:
            while True:
                while len(self._open) < self.places + self._ahead() and self._begin_next(campaign):
                    pass
                if not self._open and not any(study.running_elsewhere() for study in self.studies):
                    return
                self._wait(campaign)
        finally:
            for work in self._open:
                work.trial.study.leave(work.trial)

    def _ahead(self) -> int:
        """Trials that are made ready while all places are taken: as many as end while one is being made ready."""
        if self._ready_seconds <= AHEAD_FROM * self._trial_seconds or not self._trial_seconds:
            return 0
        return min(self.places, ceil(self.places * self._ready_seconds / self._trial_seconds))

    def _begin_next(self, campaign: Campaign) -> bool:
        """Begin a trial; False when there is none."""
        since = time.monotonic()
        trial = self._next()
        if trial is None:
            return False
        with self._unless_lost(trial):
            self._begin(campaign, trial)
        self._ready_seconds = time.monotonic() - since
        return True

    def _next(self) -> OpenTrial | None:
        """A trial whose process is gone, or a new one of the study that has the fewest."""
        for study in self.studies:
            if (trial := study.take_over()) is not None:
                return trial
        ordered = sorted(self.studies, key=StudyTrials.begun) if len(self.studies) > 1 else self.studies
        return next((trial for study in ordered if (trial := study.ask()) is not None), None)

    def _begin(self, campaign: Campaign, trial: OpenTrial) -> None:
        study = trial.study
        try:
            label = Trial(self.loaded.sweep.name, trial.number, self.parent)
            specs = [replace(spec, trial=label) for spec in self.loaded.specs(trial.values, study.plan.arms)]
            cost = self._costs.cost(specs[0].config) if needs_cost(self.loaded.sweep) else None
        except (ConfigError, ModelError, AssetMissing) as error:
            self._failed(trial, f"these values do not go together: {error.message}")
            return
        work = _Work(trial, specs, cost)
        if cost is not None:
            over = over_limits(self.loaded.sweep, cost)
            study.plan_cost(trial, cost, over)
            if beyond := [name for name, excess in over.items() if excess > 0]:
                message = f"over {' and '.join(beyond)} by its plan"
                study.prune(trial, INFEASIBLE, message)
                self._on_end(trial, INFEASIBLE, None, message)
                return
        study.note(trial, {RUNS: [spec.id for spec in specs]})
        self._open.append(work)
        self._submit(campaign, work)

    def _submit(self, campaign: Campaign, work: _Work) -> None:
        future = campaign.submit(work.spec, self._placement)
        work.future = future
        future.add_done_callback(lambda done: self._news.put(future))

    def _wait(self, campaign: Campaign) -> None:
        """Hear what is new; a pause when nothing is."""
        try:
            news = self._news.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return
        if isinstance(news, CurvePoint):
            self._curve(news)
            return
        for work in [work for work in self._open if work.future is news]:
            with self._unless_lost(work.trial):
                self._ended(campaign, work)

    @contextmanager
    def _unless_lost(self, trial: OpenTrial) -> Iterator[None]:
        """Leave a trial that another process turns out to have taken over, as this one had shown no life."""
        try:
            yield
        except LeaseLost as lost:
            self._open = [work for work in self._open if work.trial is not trial]
            trial.study.leave(trial)
            self._on_end(trial, "left", None, str(lost))

    def _curve(self, point: CurvePoint) -> None:
        """Report a score along the way; stop a run that the pruner ends."""
        sweep = self.loaded.sweep
        if sweep.pruner.name not in ("median", "hyperband"):
            return
        for work in [w for w in self._open if len(w.outcomes) < len(w.specs) and w.spec.id == point.run]:
            value = point.scores.get(schema.curve_metric(sweep.objective.score))
            total, points = sum(s.steps for s in work.spec.config.stages.values()), self.loaded.curve_points
            step = len(work.outcomes) * points + round(point.step / total * points)
            if value is None or step in work.reported or work.pruned:
                continue
            work.reported.add(step)
            with self._unless_lost(work.trial):
                if work.trial.study.report(work.trial, step, value):
                    work.pruned = True
                    if not any(w is not work and w.future is work.future for w in self._open):
                        assert work.future is not None  # the point is of its run
                        self._stopping.add(work.future)
                        work.future.stop()

    def _ended(self, campaign: Campaign, work: _Work) -> None:
        """A seed has ended: the next, or the end of the trial."""
        assert work.future is not None
        outcome = work.future.outcome()
        if outcome.died and work.deaths + 1 < ATTEMPTS:
            work.deaths += 1
            self._submit(campaign, work)  # from its last checkpoint
            return
        if outcome.status == "stopped" and not work.pruned and work.future in self._stopping:
            self._submit(campaign, work)  # it joined the run of another trial, whose end stopped it
            return
        self._note(work, outcome)
        last = len(work.outcomes) + 1 == len(work.specs)
        if outcome.status == "finished" and not (work.pruned and not last):
            self._scored(campaign, work, outcome)
        elif outcome.status in ("finished", "stopped"):
            message = "" if work.pruned else outcome.message
            self._end(work, "pruned" if work.pruned else "stopped", message)
        elif outcome.status == "diverged":
            self._end(work, "diverged", outcome.message)
        else:
            self._close(work)
            self._failed(work.trial, outcome.message)

    def _scored(self, campaign: Campaign, work: _Work, outcome: RunOutcome) -> None:
        trial, study, sweep = work.trial, work.trial.study, self.loaded.sweep
        work.outcomes.append(outcome)
        value = self._objective(outcome)
        behind = sweep.pruner.name == "wilcoxon" and study.report(trial, len(work.outcomes) - 1, value)
        if len(work.outcomes) < len(work.specs):
            if behind:
                self._end(work, "pruned", "")
            else:
                self._submit(campaign, work)
            return
        value = fmean(self._objective(each) for each in work.outcomes)
        values = [value]
        if sweep.objective.against and work.cost is not None:
            flops = sweep.objective.against == "flops"
            values.append(work.cost.flops if flops else float(work.cost.parameters))
        study.complete(trial, values)
        self._failures = 0
        if seconds := sum(each.seconds for each in work.outcomes):
            self._trial_seconds = seconds
        self._close(work)
        self._on_end(trial, "finished", value, "")

    def _objective(self, outcome: RunOutcome) -> float:
        score = self.loaded.sweep.objective.score
        value = outcome.mean if score == "mean" else outcome.scores[score]
        assert value is not None
        return value

    def _note(self, work: _Work, outcome: RunOutcome) -> None:
        """Write down what a seed gave and took."""
        notes = work.trial.notes
        scores: dict[str, Any] = dict(notes.get(SCORES, {}))
        if outcome.status == "finished":
            scores[str(work.spec.seed)] = dict(outcome.scores)
        seconds = float(notes.get(SECONDS, 0.0)) + outcome.seconds
        if work.trial.resumed or work.deaths:  # else another had begun the run
            seconds += outcome.before
        work.trial.study.note(work.trial, {SCORES: scores, SECONDS: round(seconds, 3)})

    def _end(self, work: _Work, outcome: str, message: str) -> None:
        work.trial.study.prune(work.trial, outcome, message)
        self._failures = 0
        self._close(work)
        self._on_end(work.trial, outcome, None, message)

    def _close(self, work: _Work) -> None:
        self._open = [each for each in self._open if each is not work]

    def _failed(self, trial: OpenTrial, message: str) -> None:
        trial.study.fail(trial, message)
        self._on_end(trial, "failed", None, message)
        self._failures += 1
        if self._failures >= FAILURES:
            raise TooManyFailures(
                f"{FAILURES} trials in a row failed, the last with: {message}",
                hint="failed trials are not repeated; give the sweep another name when the fault is mended",
            )


class SweepInterrupted(VlmAblateError):
    """The sweep was stopped; its open trials continue when the same command runs again."""

    exit_code = 130
