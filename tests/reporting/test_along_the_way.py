"""What is told of scores along the way, against a computation of its own over random curves."""

from __future__ import annotations

import math
import re
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from vlm_ablate.config.experiment import Experiment
from vlm_ablate.reporting import report
from vlm_ablate.reporting.figures import PANELS, STEPS, curves
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, Point, RunRecord

PAIR = re.compile(r"(.+?) − (.+?): ([+-][\d.]+) (halfway|after three quarters), ([+-][\d.]+) at the end")
Curves = dict[tuple[str, int], list[tuple[int, float]]]


def random_curves(seed: int, runs: list[RunRecord]) -> Curves:
    """Arms that cross, catch up and fall back, measured at steps of their own; some curves are missing or short."""
    rng = np.random.default_rng(seed)
    shape = {r.arm: np.cumsum(rng.normal(2, 3, 8)) for r in runs}
    steps = {r.arm: np.cumsum(rng.integers(1, 30, 8)) for r in runs}
    made: Curves = {}
    for run in runs:
        n = int(rng.choice((0, 1, 5, 8, 8, 8)))
        values = 20 + shape[run.arm] + run.seed + rng.normal(0, 0.25, 8)
        made[run.arm, run.seed] = [(int(s), float(v)) for s, v in zip(steps[run.arm][:n], values[:n], strict=True)]
    return made


def histories_of(made: Curves, runs: list[RunRecord]) -> dict[str, History]:
    return {r.run_id: {"curve/mean": [Point(s, v, 0) for s, v in made[r.arm, r.seed]]} for r in runs}


def at_share(curve: list[tuple[int, float]], share: float) -> float | None:
    early = [value for step, value in curve if step <= share * curve[-1][0]] if len(curve) > 1 else []
    return early[-1] if early else None


def settled(differences: list[float]) -> float | None:
    """The mean, where its 95 % interval of scipy leaves zero out."""
    if len(differences) < 2:
        return None
    ends = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    return fmean(differences) if ends.low > 0 or ends.high < 0 else None


def expected(made: Curves, arms: list[str], labels: dict[str, str]) -> set[tuple[str, str, str, str, str]]:
    told = set()
    seeds = sorted({seed for _, seed in made})
    for a, b in combinations(arms, 2):
        at = {}
        for share in (0.5, 0.75, 1.0):
            both = {s: (at_share(made[a, s], share), at_share(made[b, s], share)) for s in seeds}
            at[share] = {s: x - y for s, (x, y) in both.items() if x is not None and y is not None}
        end, half = (settled(list(at[share].values())) for share in (1.0, 0.5))
        if end is None or not at[0.5] or not at[0.75]:
            continue
        if fmean(at[0.5].values()) * end < 0:
            if half is not None:
                told.add((labels[a], labels[b], f"{half:+.1f}", "halfway", f"{end:+.1f}"))
            continue
        change = settled([at[1.0][s] - at[0.75][s] for s in at[0.75]])
        if change is not None and change * end < 0:
            then = fmean(at[0.75].values())
            told.add((labels[a], labels[b], f"{then:+.1f}", "after three quarters", f"{end:+.1f}"))
    return told


def test_the_note_on_the_budget_names_exactly_the_pairs_whose_order_turned_or_shrinks(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    kinds = set()
    for seed in range(25):
        made = random_curves(seed, runs)
        found = report(experiment, runs, histories=histories_of(made, runs))
        note = dict(found.notes).get("Budget", "").removesuffix(" (scores along the way, tune split).")
        parts = re.split(r"; |(?:^|\. )more training [a-z ]+(?:, where a difference still shrinks)?\. ", note)
        told = {PAIR.fullmatch(part).groups() for part in parts if part}
        wanted = expected(made, list(experiment.arms), {row.arm: row.label for row in found.rows})
        assert told == wanted, seed
        assert ("more training changes an order" in note) == any(how == "halfway" for *_, how, _ in wanted)
        assert ("may change an order" in note) == any("quarters" in how for *_, how, _ in wanted)
        kinds |= {how for *_, how, _ in wanted}
    assert len(kinds) == 2


def test_runs_without_scores_along_the_way_are_all_named_where_others_have_some(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    for seed in range(10):
        made = random_curves(seed, runs)
        if seed == 9:
            made = {key: [] for key in made}
        found = report(experiment, runs, histories=histories_of(made, runs))
        note = dict(found.notes).get("Scores along the way", "")
        bare = [key for key, curve in made.items() if not curve]
        named = {
            (row.arm, int(s)) for row in found.rows
            for listed in re.findall(re.escape(row.label) + r" \(seed ([\d, ]+)\)", note) for s in listed.split(", ")
        }  # fmt: skip
        assert named == (set(bare) if len(bare) < len(made) else set())


def test_curves_hold_each_measurement_once_and_are_means_over_the_seeds_measured_there(
    experiment: Experiment, runs: list[RunRecord]
) -> None:
    for seed in range(6):
        made, rng = random_curves(seed, runs), np.random.default_rng(seed)
        histories = histories_of(made, runs)
        rates = {m: {r.run_id: float(rng.uniform(1, 9)) for r in runs} for m in schema.SEEN}
        for run in runs:
            steps = [p.step for p in histories[run.run_id]["curve/mean"]]
            for metric, rate in rates.items():
                histories[run.run_id][metric] = [Point(s, s * rate[run.run_id], 0) for s in [*steps, 10_000]]
        found = curves(report(experiment, runs, histories=histories), runs, histories)
        assert set(found) == {arm for (arm, _), curve in made.items() if curve}
        for arm, points in found.items():
            of = [r for r in runs if r.arm == arm]
            assert [p.step for p in points] == sorted({s for r in of for s, _ in made[arm, r.seed]})
            for point in points:
                here = [(r, v) for r in of for s, v in made[arm, r.seed] if s == point.step]
                assert (point.score.n, point.score.mean) == (len(here), pytest.approx(fmean(v for _, v in here)))
                assert point.seen[STEPS] == point.step
                for metric, _ in PANELS[1:]:
                    assert point.seen[metric] == pytest.approx(
                        fmean(rates[metric][r.run_id] * point.step for r, _ in here)
                    )


def test_what_is_no_number_is_as_if_it_had_not_been_measured(experiment: Experiment, runs: list[RunRecord]) -> None:
    for seed in range(4):
        histories = histories_of(random_curves(seed, runs), runs)
        broken = {
            run: {"curve/mean": [p for point in h["curve/mean"] for p in (point, Point(point.step, math.inf, 0))]}
            for run, h in histories.items()
        }
        first, second = (report(experiment, runs, histories=h) for h in (histories, broken))
        assert first.notes == second.notes and first.health == second.health and first.claims == second.claims
