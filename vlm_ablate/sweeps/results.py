"""The trials of a study as values: what they were, scored and cost, the best, the front, and what mattered."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_ablate.reporting.statistics import Estimate, estimate
from vlm_ablate.sweeps.config import Objective, Value
from vlm_ablate.sweeps.trials import FLOPS, MEMORY, MESSAGE, OUTCOME, PARAMETERS, RUNS, SCORES, SECONDS, VALUES

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

GOOD = 5
"""Trials that are compared with the rest to see what mattered, at least."""
LEAST_FOR_IMPORTANCE = 10
"""Finished trials below which no importance is told: the estimate is noise."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial that was begun."""

    number: int
    outcome: str
    """finished | pruned | stopped | diverged | failed | does not fit | running"""
    values: Mapping[str, Value]
    """Field -> value; `arm` among them."""
    score: Estimate | None
    """The objective over its seeds, on the tune split; None unless it is finished."""
    objectives: tuple[float, ...] = ()
    scores: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Seed -> column -> score."""
    seconds: float = 0.0
    """Of computing."""
    flops: float | None = None
    """Planned, of one training."""
    parameters: int | None = None
    peak_memory: int | None = None
    runs: tuple[str, ...] = ()
    message: str = ""

    @property
    def arm(self) -> str:
        """The arm that it is of."""
        return str(self.values.get("arm", ""))


@dataclass(frozen=True)
class StudyResult:
    """All of one study."""

    name: str
    objective: Objective
    trials: tuple[TrialRecord, ...]
    importances: Mapping[str, float] = field(default_factory=dict)
    """Field -> share of the objective's variation (PED-ANOVA); empty when there are too few trials."""

    @property
    def finished(self) -> list[TrialRecord]:
        """Those that were scored, the best first."""
        sign = -1.0 if self.objective.direction == "maximize" else 1.0
        scored = [trial for trial in self.trials if trial.outcome == "finished" and trial.score]
        return sorted(scored, key=lambda trial: (sign * trial.objectives[0], trial.objectives[1:], trial.number))

    @property
    def front(self) -> list[TrialRecord]:
        """Those of two objectives that no other is better than in both, the cheapest first."""
        sign = 1.0 if self.objective.direction == "maximize" else -1.0
        kept: list[TrialRecord] = []
        best = float("-inf")
        for trial in sorted(self.finished, key=lambda t: (t.objectives[-1], -sign * t.objectives[0], t.number)):
            if sign * trial.objectives[0] > best:
                kept.append(trial)
                best = sign * trial.objectives[0]
        return kept

    @property
    def tried(self) -> int:
        """Trials that told something of their values."""
        return sum(trial.outcome not in ("running", "failed", "does not fit") for trial in self.trials)

    def counts(self) -> dict[str, int]:
        """Outcome -> trials."""
        found: dict[str, int] = {}
        for trial in self.trials:
            found[trial.outcome] = found.get(trial.outcome, 0) + 1
        return found


def result_of(study: Study, objective: Objective) -> StudyResult:
    """All that is known of a study now."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    records = tuple(record_of(trial, objective) for trial in trials if trial.state != TrialState.WAITING)
    return StudyResult(study.study_name, objective, records, _importances(study, trials))


def record_of(trial: FrozenTrial, objective: Objective) -> TrialRecord:
    """One trial as a value."""
    notes: Mapping[str, Any] = trial.user_attrs
    outcome = str(notes.get(OUTCOME, "running")) if trial.state.is_finished() else "running"
    scores = {int(seed): dict(columns) for seed, columns in notes.get(SCORES, {}).items()}
    own = [_objective(columns, objective.score) for columns in scores.values()]
    finished = outcome == "finished" and trial.values is not None
    return TrialRecord(
        number=trial.number,
        outcome=outcome,
        values=dict(notes.get(VALUES, {})),
        score=estimate(own) if finished and own else None,
        objectives=tuple(trial.values or ()) if finished else (),
        scores=scores,
        seconds=float(notes.get(SECONDS, 0.0)),
        flops=notes.get(FLOPS),
        parameters=notes.get(PARAMETERS),
        peak_memory=notes.get(MEMORY),
        runs=tuple(notes.get(RUNS, ())),
        message=str(notes.get(MESSAGE, "")),
    )


def _objective(columns: Mapping[str, float], score: str) -> float:
    return sum(columns.values()) / len(columns) if score == "mean" else columns[score]


def _importances(study: Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """PED-ANOVA (Watanabe, Bansal and Hutter 2023), which takes conditional spaces; of the score where there are two
    objectives."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(complete) < LEAST_FOR_IMPORTANCE:
        return {}
    sign = -1.0 if study.directions[0].name == "MAXIMIZE" else 1.0  # the evaluator takes less for better
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(0.5, GOOD / len(complete))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says so, too
        try:
            found = get_param_importances(study, evaluator=evaluator, target=lambda trial: sign * trial.values[0])
        except (ValueError, RuntimeError):  # fields that never varied
            return {}
    return {name: float(share) for name, share in found.items()}
