"""The trials of one study: asked for, taken over from dead processes, reported, told. Who has its lease has a trial.

A trial that runs is one of the database and a folder in the home. Whoever holds the lease of the folder works on it;
a trial whose holder is dead is continued under its own number by the first who takes the lease.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_ablate.errors import StorageError, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.lease import Lease, LeaseHeld, holder
from vlm_ablate.lease_files import highest_of
from vlm_ablate.storage import locked, write_atomically
from vlm_ablate.sweeps.config import ARM
from vlm_ablate.sweeps.cost import Cost
from vlm_ablate.sweeps.loading import LoadedSweep, StudyPlan
from vlm_ablate.sweeps.space import MOST_COMBINATIONS, Values
from vlm_ablate.sweeps.storage import UNTOUCHED, open_storage, open_study, sampler_of, sweep_folder

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

ATTEMPTS = 3
"""How often a trial is begun whose process died: one that takes its process with it each time is given up."""
MAKING_SECONDS = 120.0
"""Age at which a trial without a folder is one whose process died while it was asked for."""
INFEASIBLE_SHARE = 10
"""At most so many trials are drawn for each of the budget when most do not fit; a grid ends by itself."""
INFEASIBLE_FIRST = 100
"""With a budget that counts no trials, at most so many more than that share of those that fit."""

# User attributes of a trial
OWN_HOME, VALUES, ATTEMPT, OUTCOME, MESSAGE = "home", "values", "attempt", "outcome", "message"
SCORES, SECONDS, FLOPS, PARAMETERS, MEMORY, RUNS = "scores", "seconds", "flops", "parameters", "memory", "runs"
INFEASIBLE = "does not fit"
"""An outcome: the plan exceeds a constraint."""


@dataclass
class OpenTrial:
    """A trial that this process works on."""

    study: StudyTrials
    number: int
    id: int
    """In the database."""
    values: Values
    lease: Lease
    resumed: bool = False
    notes: dict[str, Any] = field(default_factory=dict)
    """User attributes that are known."""

    @property
    def name(self) -> str:
        """`trial 3`, or with several studies `ARM trial 3`."""
        plan = self.study.plan
        prefix = f"{plan.arms[0]} " if self.study.loaded.sweep.experiment.per_arm else ""
        return f"{prefix}trial {self.number}"


class StudyTrials:
    """One study as one process sees it."""

    def __init__(self, study: Study, storage: RDBStorage, loaded: LoadedSweep, plan: StudyPlan, folder: Path) -> None:
        self.study, self.storage, self.loaded, self.plan = study, storage, loaded, plan
        parts = plan.name.split("/")[1:]
        self._folder = folder.joinpath("trials", *parts)
        self._lock = folder / "ask.lock"
        self._home = _home_id(folder)
        self._held: set[int] = set()

    def all(self) -> list[FrozenTrial]:
        """All trials of the study, of whichever process."""
        return self.study.get_trials(deepcopy=False)

    def begun(self) -> int:
        """Trials that were begun."""
        return sum(_counts(trial) for trial in self.all())

    def unfinished(self) -> int:
        """Trials of this home that are not told yet, whether somebody works on them or not."""
        return len(self._running())

    def running_elsewhere(self) -> int:
        """Trials of this home that other processes work on now."""
        return sum(holder(self.folder(t.number)) is not None for t in self._running() if t.number not in self._held)

    def folder(self, number: int) -> Path:
        """The folder of a trial."""
        return self._folder / str(number)

    def spent(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether the budget is reached, or all that the space has was begun."""
        from optuna.trial import TrialState

        sweep, budget = self.loaded.sweep, self.loaded.sweep.budget
        begun = sum(_counts(trial) for trial in trials)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if trials and not waiting and (sweep.sampler.name == "grid" or self._nothing_new(trials)):
            return True
        drawn = sum(trial.state != TrialState.WAITING for trial in trials)
        most = budget.trials * INFEASIBLE_SHARE if budget.trials else begun * INFEASIBLE_SHARE + INFEASIBLE_FIRST
        if (budget.trials is not None and begun >= budget.trials) or (sweep.sampler.name != "grid" and drawn >= most):
            return True
        hours = sum(float(trial.user_attrs.get(SECONDS, 0.0)) for trial in trials) / 3600
        planned = sum(float(trial.user_attrs.get(FLOPS, 0.0)) for trial in trials if _counts(trial))
        flops = planned * len(sweep.seeds)
        return (budget.hours is not None and hours >= budget.hours) or (
            budget.flops is not None and flops >= budget.flops
        )

    def _nothing_new(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every combination of the space was begun: a further trial can only repeat one."""
        return bool(self._combinations) and self._combinations <= {
            _combination(values) for trial in trials if (values := trial.user_attrs.get(VALUES))
        }

    @cached_property
    def _combinations(self) -> frozenset[str]:
        """Of the space; none where they cannot be counted, or are too many."""
        if not self.plan.space.countable:
            return frozenset()
        found = list(islice(self.plan.space.grid(), MOST_COMBINATIONS + 1))
        only: Values = {} if len(self.plan.arms) > 1 else {ARM: self.plan.arms[0]}
        return frozenset(_combination(only | v) for v in found) if len(found) <= MOST_COMBINATIONS else frozenset()

    def ask(self) -> OpenTrial | None:
        """The next trial with its values; None when the budget is spent."""
        with locked(self._lock):
            trials = self.all()
            if self.spent(trials):
                return None
            trial = self.study.ask()
            lease = Lease.acquire(self.folder(trial.number))
            self._held.add(trial.number)
            trial.set_user_attr(OWN_HOME, self._home)
        opened = OpenTrial(self, trial.number, trial._trial_id, {}, lease)
        self._draw(opened, trial)
        return opened

    def _draw(self, opened: OpenTrial, trial: Trial) -> None:
        """Values for a trial that has none, or not all: what was drawn or asked for already stays."""
        try:
            self.study.sampler = sampler_of(self.loaded.sweep, opened.number)
            values = self.plan.space.suggest(trial, trial.user_attrs.get(UNTOUCHED, ()))
            opened.values = {ARM: self.plan.arms[0], **values}
            trial.set_user_attr(VALUES, opened.values)
        except BaseException:
            self.leave(opened)
            raise

    def take_over(self) -> OpenTrial | None:
        """A trial whose process is gone, to be continued; None without any."""
        from optuna.trial import Trial, TrialState

        for trial in self._running():
            folder = self.folder(trial.number)
            if trial.number in self._held or holder(folder) is not None:
                continue
            if not folder.is_dir() and not _old(trial):
                continue  # it is being asked for
            number, given_back = highest_of(folder)
            died = not (number and given_back)  # else its process was interrupted, and has left it in order
            try:
                lease = Lease.acquire(folder, wait=False)
            except LeaseHeld:
                continue
            now = self.storage.get_trial(trial._trial_id)  # as it is now that nobody else can tell it
            if now.state != TrialState.RUNNING:
                lease.release()
                continue
            self._held.add(trial.number)
            opened = OpenTrial(self, now.number, now._trial_id, {}, lease, resumed=True, notes=dict(now.user_attrs))
            attempt = int(now.user_attrs.get(ATTEMPT, 1)) + died
            if attempt > ATTEMPTS:
                self.fail(opened, f"its process died {ATTEMPTS} times")
                continue
            self.note(opened, {ATTEMPT: attempt})
            opened.values = now.user_attrs.get(VALUES) or {}
            if not opened.values:
                self._draw(opened, Trial(self.study, now._trial_id))
            return opened
        return None

    def _running(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if trial.user_attrs.get(OWN_HOME, self._home) == self._home]

    def note(self, trial: OpenTrial, values: Mapping[str, Any]) -> None:
        """Write user attributes that are new or changed.

        Raises:
            LeaseLost: another process has the trial now, and may have told it.
        """
        with self._ours(trial):
            for name, value in values.items():
                if trial.notes.get(name) != value:
                    trial.notes[name] = value
                    self.storage.set_trial_user_attr(trial.id, name, value)

    @contextmanager
    def _ours(self, trial: OpenTrial) -> Iterator[None]:
        """For what is written of a trial: within the block this process may be stopped until another has told it.

        Raises:
            LeaseLost: another process has the trial now, and may have told it.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        trial.lease.check()
        try:
            yield
        except (UpdateFinishedTrialError, ValueError):  # the second: from `tell`
            trial.lease.check()
            raise

    def plan_cost(self, trial: OpenTrial, cost: Cost, over: Mapping[str, float]) -> None:
        """Write down the plan of a trial, and by how much it is over the constraints."""
        from optuna.trial import Trial

        self.note(trial, {FLOPS: cost.flops, PARAMETERS: cost.parameters, MEMORY: cost.peak_memory})
        told = self.storage.get_trial(trial.id).constraints if over else {}
        with self._ours(trial):
            for name in over.keys() - told.keys():
                Trial(self.study, trial.id).set_constraint(name, over[name])

    def report(self, trial: OpenTrial, step: int, value: float) -> bool:
        """Give an intermediate value; True when the pruner ends the trial.

        Raises:
            LeaseLost: another process has the trial now, and may have told it.
        """
        with self._ours(trial):
            self.storage.set_trial_intermediate_value(trial.id, step, value)
        return bool(self.study.pruner.prune(self.study, self.storage.get_trial(trial.id)))

    def complete(self, trial: OpenTrial, values: Sequence[float]) -> None:
        """Tell a trial that went to its end."""
        self._tell(trial, "finished", "", values)

    def prune(self, trial: OpenTrial, outcome: str, message: str) -> None:
        """Tell a trial that was ended, or that ended badly, and that the sampler is to learn from."""
        self._tell(trial, outcome, message, None)

    def fail(self, trial: OpenTrial, message: str) -> None:
        """Tell a trial that says nothing of its values."""
        self._tell(trial, "failed", message, None)

    def leave(self, trial: OpenTrial) -> None:
        """Give a trial back as it is: whoever comes next continues it."""
        trial.lease.release()
        self._held.discard(trial.number)

    def _tell(self, trial: OpenTrial, outcome: str, message: str, values: Sequence[float] | None) -> None:
        """
        Raises:
            LeaseLost: another process has the trial now.
        """
        from optuna.trial import TrialState

        states = {"finished": TrialState.COMPLETE, "failed": TrialState.FAIL}
        self.note(trial, {OUTCOME: outcome, **({MESSAGE: message[:2000]} if message else {})})
        with self._ours(trial):
            told = None if values is None else list(values)
            self.study.tell(trial.number, told, states.get(outcome, TrialState.PRUNED))
        self.leave(trial)


def open_studies(loaded: LoadedSweep, home: Home, uri: str) -> list[StudyTrials]:
    """The studies of a sweep, made with their first trials where they are not there yet.

    Raises:
        StorageError: the database cannot be reached.
        StudyDiffers: a study of that name is of another search.
    """
    folder = sweep_folder(home, loaded.sweep.name)
    storage = open_storage(uri, folder)
    return [
        StudyTrials(open_study(storage, loaded, plan, folder), storage, loaded, plan, folder) for plan in loaded.studies
    ]


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the budget's: it was begun, and its plan fits."""
    from optuna.trial import TrialState

    return trial.state != TrialState.WAITING and trial.user_attrs.get(OUTCOME) != INFEASIBLE


def _combination(values: Values) -> str:
    return json.dumps(values, sort_keys=True)


def _old(trial: FrozenTrial) -> bool:
    started = trial.datetime_start
    return started is not None and time.time() - started.timestamp() > MAKING_SECONDS


def _home_id(folder: Path) -> str:
    """Tells the trials of this home from those of others on the same server.

    Raises:
        StorageError: its file does not say it.
    """
    file = folder / "id"
    with locked(folder / "schema.lock"):
        if not file.is_file():
            write_atomically(file, secrets.token_hex(8))
        told = file.read_text(errors="replace").strip()
    if not re.fullmatch(r"[0-9a-f]{16}", told):
        raise StorageError(f"{file} is damaged: it holds no id of a home",
                           hint="move it away for a new one; trials that were not finished are then left as they are")
    return told


class TooManyFailures(VlmAblateError):
    """One trial after another fails: the fault is not in their values."""
