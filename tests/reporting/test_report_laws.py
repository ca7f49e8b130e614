"""Laws of the report: what does not depend on the order of runs or on other arms, and what adds up."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vlm_ablate.config.expand import restricted
from vlm_ablate.config.experiment import Experiment
from vlm_ablate.reporting import Report, report
from vlm_ablate.reporting.frame import sample_of
from vlm_ablate.reporting.layout import lay_out
from vlm_ablate.reporting.rows import ArmRow
from vlm_ablate.tracking import schema
from vlm_ablate.tracking.records import History, Point, RunRecord

Run = Callable[..., RunRecord]
Score = Callable[..., dict[str, Any]]
STATUSES = (schema.FINISHED, schema.DIVERGED, schema.RUNNING, schema.STOPPED, schema.FAILED, schema.SKIPPED)


@pytest.fixture
def mixed(experiment: Experiment, run: Run) -> Callable[[int], list[RunRecord]]:
    """Runs of any status, some repeated later, some seeds absent."""

    def made(seed: int) -> list[RunRecord]:
        rng = random.Random(seed)
        found = []
        for arm, number in product(experiment.arms, range(4)):
            for attempt in range(rng.choice((0, 1, 1, 2))):
                status = rng.choice((*STATUSES, *[schema.FINISHED] * 5))
                name = f"{arm}-{number}-{attempt}"
                begun = rng.choice((1000, 2000))
                found.append(run(arm, number, status=status, run_id=name, start_time=begun))
        return found

    return made


def columns_of(row: ArmRow) -> dict[str, object]:
    """All of a row that no other arm may change."""
    return {name: value for name, value in vars(row).items() if "rank" not in name and not name.startswith("_")}


def test_a_report_does_not_depend_on_the_order_of_runs(
    experiment: Experiment, mixed: Callable[[int], list[RunRecord]], history: Callable[[RunRecord], History]
) -> None:
    for seed in range(12):
        records = mixed(seed)
        histories = {r.run_id: history(r) for r in records if r.status == schema.FINISHED}
        first = report(experiment, records, histories=histories)
        random.Random(seed).shuffle(records)
        again = report(experiment, records, histories=dict(reversed(histories.items())))
        assert again == first and lay_out(again) == lay_out(first)
        assert sample_of(again, records) == sample_of(first, sorted(records, key=lambda r: r.run_id))


def test_each_cell_is_that_of_the_arm_s_runs_alone(
    experiment: Experiment, mixed: Callable[[int], list[RunRecord]]
) -> None:
    for seed in range(6):
        records = mixed(seed)
        whole = report(experiment, records)
        for row in whole.rows:
            alone = report(restricted(experiment, [row.arm]), records).rows[0]
            assert columns_of(alone) == columns_of(row)
            assert {c: alone.score(c) for c in (*whole.columns, "mean")} == {
                c: row.score(c) for c in (*whole.columns, "mean")
            }
        kept = sorted({row.arm for row in whole.rows[::2]}, key=list(experiment.arms).index)
        some = report(restricted(experiment, kept), records)
        pairs = {(a.arm, b.arm): a.minus(b) for a in whole.rows for b in whole.rows}
        assert all(a.minus(b) == pairs[a.arm, b.arm] for a in some.rows for b in some.rows)


def test_what_was_counted_is_what_was_chosen(experiment: Experiment, mixed: Callable[[int], list[RunRecord]]) -> None:
    for seed in range(12):
        records = mixed(seed)
        found = report(experiment, records)
        chosen = [r for r in records if r.run_id in found.run_ids]
        assert len({(r.arm, r.seed) for r in chosen}) == len(chosen) == len({(r.arm, r.seed) for r in records})
        for record in chosen:
            others = [r for r in records if (r.arm, r.seed) == (record.arm, record.seed)]
            ended = [r for r in others if r.status in schema.DONE] or others
            assert record.start_time == max(r.start_time for r in ended) and record in ended
        for row in found.rows:
            assert dict(row.seeds) == {r.seed: r.status for r in chosen if r.arm == row.arm}
            scored = [s for s, status in row.seeds.items() if status == schema.FINISHED]
            assert all(sorted(by_seed) == sorted(scored) for by_seed in row.scores.values())
            for number, mean in row.scores["mean"].items():
                assert mean == pytest.approx(fmean(row.scores[c][number] for c in found.columns))
            asked = [s for r in chosen if r.arm == row.arm for s in r.scores if not s["blind"]]
            for column, (unparsed, answers) in row.unparsed.items():
                of = [s for s in asked if s["column"] == column]
                assert (unparsed, answers) == (sum(s["unparsed"] for s in of), sum(s["items"] for s in of))
        for column, floor in found.floor.items():
            assert floor == max(row.floor(column).mean for row in found.rows if row.floor(column))


def test_seeds_of_an_arm_add_up_in_its_note(experiment: Experiment, mixed: Callable[[int], list[RunRecord]]) -> None:
    """`2 seeds scored, 1 diverged, 1 not run.`: as many as were planned or run."""
    told = 0
    for seed in range(12):
        found = report(experiment.model_copy(update={"seeds": [0, 1, 2, 3, 4]}), mixed(seed))
        counts: dict[str, Counter[str]] = {}
        for subject, text in found.notes:
            if "scored, " in text:
                parts = [part.split(" ", 1) for part in text.rstrip(".").split(", ")]
                counts |= {label: Counter({what: int(n) for n, what in parts}) for label in subject.split("; ")}
        for row in found.rows:
            if (note := counts.get("All arms", counts.get(row.label))) is not None and row.score():
                told += 1
                expected = Counter(s for s in row.seeds.values() if s != schema.FINISHED)
                expected["not run"] = 5 - len(row.seeds)
                scored = len(row.scores["mean"])
                expected[f"seed{'s' * (scored > 1)} scored"] = scored
                assert note == +expected and note.total() == 5
    assert told > 20


@pytest.mark.parametrize("status", STATUSES)
def test_an_arm_all_of_whose_runs_ended_alike_is_called_so(experiment: Experiment, run: Run, status: str) -> None:
    row = report(experiment, [run("ca", seed, status=status) for seed in range(2)]).rows[2]
    assert row.status == status
    with_score = report(experiment, [run("ca", 0, status=status), run("ca", 1)]).rows[2]
    assert with_score.status == schema.FINISHED and with_score.score().n == 1 + (status == schema.FINISHED)


def test_ranks_stand_within_their_ranges_and_ranges_say_who_beats_whom(
    experiment: Experiment, mixed: Callable[[int], list[RunRecord]]
) -> None:
    for seed in range(12):
        rows = [row for row in report(experiment, mixed(seed)).rows if row.score()]
        for row in rows:
            beaten = [o for o in rows if o is not row and (d := row.minus(o)) and d.low is not None and d.low > 0]
            by = [o for o in rows if o is not row and (d := row.minus(o)) and d.high is not None and d.high < 0]
            assert row.rank_range == (1 + len(by), len(rows) - len(beaten))


def test_the_sample_is_a_run_whose_score_counts(experiment: Experiment, run: Run) -> None:
    """A run that failed halfway may have left scores; its answers do not stand for the table's."""
    failed = run("ar_lora", 0, status="failed", scores=run("ar_lora", 0).scores)
    partial = run("ar_lora", 1, scores=run("ar_lora", 1).scores[:2])
    records = [failed, partial, run("ar_lora", 3), run("ar_lora", 2), run("ca", 0)]
    assert sample_of(report(experiment, records), records) == records[3]
    assert sample_of(report(experiment, [failed]), [failed]) is None


# --- health ----------------------------------------------------------------------------------------------------------
def of_scores(experiment: Experiment, run: Run, score_of: Score, table: dict[str, list[float]], **more: Any) -> Report:
    blind = [score_of("vqa", more.pop("floor"), blind=True)] if "floor" in more else []
    records = [
        run(arm, seed, scores=[score_of("vqa", value), *blind])
        for arm, of in table.items()
        for seed, value in enumerate(of)
    ]
    return report(experiment, records, **more)


def test_arms_at_the_edges_are_those_within_a_twentieth_of_the_way(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    rng = np.random.default_rng(0)
    arms = list(experiment.arms)
    seen = Counter()
    for _ in range(40):
        floor, ceiling = float(rng.uniform(2, 30)), float(rng.uniform(50, 95))
        means = {
            arm: float(rng.choice((floor, ceiling)) + rng.uniform(-1, 1) * 0.12 * (ceiling - floor)) for arm in arms
        }
        found = of_scores(experiment, run, score_of, {arm: [m, m] for arm, m in means.items()},
                          floor=floor, ceiling={"vqa": ceiling})  # fmt: skip
        health, way = found.health["vqa"], 0.05 * (ceiling - floor)
        passed = any(m > ceiling + way for m in means.values())
        top = 100.0 if passed else ceiling
        assert health.passed == passed
        assert set(health.at_floor) == {a for a, m in means.items() if m < floor + 0.05 * (top - floor)}
        assert set(health.at_ceiling) == {a for a, m in means.items() if not passed and m > ceiling - way}
        assert not set(health.at_floor) & set(health.at_ceiling)
        seen.update(floor=bool(health.at_floor), ceiling=bool(health.at_ceiling), passed=passed)
    assert all(5 < seen[what] < 40 for what in ("floor", "ceiling", "passed"))


def test_signal_to_noise_is_the_spread_of_arms_over_the_pooled_spread_of_seeds(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        table = {arm: [float(v) for v in rng.normal(40, 3, rng.integers(1, 5))] for arm in experiment.arms}
        found = of_scores(experiment, run, score_of, table).health["vqa"].signal_to_noise
        many = [values for values in table.values() if len(values) > 1]
        weights = [len(values) - 1 for values in many]
        noise = math.sqrt(np.average([np.var(v, ddof=1) for v in many], weights=weights)) if many else None
        signal = float(np.std([np.mean(values) for values in table.values()], ddof=1))
        assert (found is None) == (noise is None)
        assert found is None or found == pytest.approx(signal / noise)


def test_a_benchmark_on_which_all_arms_score_one_number_has_no_signal(
    experiment: Experiment, run: Run, score_of: Score
) -> None:
    dead = of_scores(experiment, run, score_of, {arm: [0.0, 0.0] for arm in experiment.arms})
    assert dead.health["vqa"].signal_to_noise is None
    assert "signal to noise 999" not in dict(lay_out(dead).notes).get("Health", "")
    apart = of_scores(experiment, run, score_of, {"ca": [1.0, 1.0], "ar_lora": [2.0, 2.0]})
    assert apart.health["vqa"].signal_to_noise == math.inf


def test_rising_is_the_mean_of_scipy_s_tau_over_runs(experiment: Experiment, runs: list[RunRecord]) -> None:
    rng = np.random.default_rng(2)
    answers = set()
    for lift in np.arange(16) / 10:
        histories, taus = {}, []
        for record in runs:
            values = [float(v + lift * i) for i, v in enumerate(rng.integers(0, 6, rng.integers(1, 7)))]
            histories[record.run_id] = {"curve/vqa": [Point(i, v, 0) for i, v in enumerate(values)]}
            if len(values) > 2:
                tau = stats.kendalltau(range(len(values)), values).statistic
                taus.append(0.0 if math.isnan(tau) else tau)
        health = report(experiment, runs, histories=histories).health["vqa"]
        assert health.rising == pytest.approx(fmean(taus))
        assert health.monotone == (fmean(taus) >= 1 / 3)
        answers.add((health.monotone, health.rising > 0.25, health.rising > 0.45))
        flat = {run: {"curve/vqa": [Point(i, 5.0, 0) for i in range(4)]} for run in histories}
        assert report(experiment, runs, histories=flat).health["vqa"].monotone is False
        assert replace(health, rising=None).monotone is None
    assert answers >= {(False, True, False), (True, True, False)}, "close to where it turns on both sides"
