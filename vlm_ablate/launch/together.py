"""Many experiments as one campaign: the order of their runs, what they share, and what is left to compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.view import Results

SECONDS_A_STEP, SECONDS_AN_ITEM = 0.25, 0.025
"""CPU time of the committed laptop results, for what was never computed here: a training step, an answered question."""
USUAL_ITEMS = 300
"""Of a benchmark that is not limited."""


def seed_by_seed(tables: Iterable[Sequence[RunSpec]]) -> list[RunSpec]:
    """The runs of all tables, one seed of every table before the second of any: whole tables exist as early as can be.

    Args:
        tables: the runs of each, seed by seed.
    """
    by_seed = [_by_seed(specs) for specs in tables]
    return [spec for layer in zip_longest(*by_seed, fillvalue=()) for specs in layer for spec in specs]


def _by_seed(specs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    found: dict[int, list[RunSpec]] = {}
    for spec in specs:
        found.setdefault(spec.seed, []).append(spec)
    return list(found.values())


@dataclass(frozen=True)
class Work:
    """An amount of computing."""

    runs: int = 0
    """Runs (of a sum of shared work: trainings of a last stage)."""
    steps: int = 0
    items: int = 0
    """Questions to answer."""
    seconds: float = 0.0
    """CPU time, by estimate."""

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))

    def __sub__(self, other: Work) -> Work:
        return Work(*(a - b for a, b in zip(_values(self), _values(other), strict=True)))


def _values(work: Work) -> tuple[Any, ...]:
    return work.runs, work.steps, work.items, work.seconds


@dataclass(frozen=True)
class Account:
    """What a set of runs asks for, and what of it must be computed."""

    asked: Work
    """If each table were computed for itself."""
    shared: Work
    """What two need once."""
    left: Work
    """Of it, what is not on disk."""


def account(results: Sequence[Results]) -> Account:
    """Of runs with what is on disk of them. A stage or score that two runs name by the same key is one."""
    rates = _rates(results)
    stages: dict[str, tuple[Work, bool]] = {}
    scores: dict[str, tuple[Work, bool]] = {}
    asked = Work()
    for each in results:
        last = len(each.spec.stage_keys) - 1
        for i, (key, stage) in enumerate(zip(each.spec.stage_keys, each.spec.config.stages.values(), strict=False)):
            work = Work(runs=int(i == last), steps=stage.steps, seconds=stage.steps * rates.step)
            asked += work
            there = i < len(each.outcomes) and each.outcomes[i]["status"] in ("finished", "diverged")
            before, known = stages.get(key.key, (work, False))
            # What is the last stage of one run may be an earlier one of another.
            stages[key.key] = (replace(work, runs=max(work.runs, before.runs)), there or each.done or known)
        present = {key.key for key, _ in each.scores}
        for score in each.spec.score_keys:
            items = score.inputs["limit"] or USUAL_ITEMS
            work = Work(items=items, seconds=items * rates.item)
            asked += work
            there = score.key in present or each.done
            scores[score.key] = (work, there or scores.get(score.key, (work, False))[1])
    every = [*stages.values(), *scores.values()]
    return Account(asked, _sum(work for work, _ in every), _sum(work for work, there in every if not there))


def _sum(works: Iterable[Work]) -> Work:
    total = Work()
    for work in works:
        total += work
    return total


@dataclass(frozen=True)
class _Rates:
    step: float
    item: float


def _rates(results: Sequence[Results]) -> _Rates:
    """Seconds a step and an item, from what was computed here; the mean over all."""
    trained: dict[str, tuple[float, int]] = {}
    answered: dict[str, tuple[float, int]] = {}
    for each in results:
        for key, stage, outcome in zip(
            each.spec.stage_keys, each.spec.config.stages.values(), each.outcomes, strict=False
        ):
            if outcome.get("status") == "finished" and outcome.get("seconds"):
                trained[key.key] = (float(outcome["seconds"]), stage.steps)
        for score, record in zip((key for key, _ in each.scores), each.score_records(), strict=True):
            if record.get("seconds"):
                answered[score.key] = (float(record["seconds"]), int(record["items"]))
    return _Rates(_rate(trained, SECONDS_A_STEP), _rate(answered, SECONDS_AN_ITEM))


def _rate(measured: Mapping[str, tuple[float, int]], usual: float) -> float:
    seconds, units = (sum(part) for part in zip(*measured.values(), strict=True)) if measured else (0.0, 0)
    return seconds / units if units else usual
