"""Laws of verdicts, over random tables of runs: against tests of scipy, and under what must not change a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vlm_ablate.config.experiment import Claim, Experiment, TableConfig
from vlm_ablate.reporting import report
from vlm_ablate.reporting.finding import finding
from vlm_ablate.reporting.judgement import judgement_notes
from vlm_ablate.reporting.rows import ClaimRow
from vlm_ablate.reporting.statistics import Verdict, holm
from vlm_ablate.tracking.records import RunRecord

ARMS = ("ar_linear", "ar_perceiver", "ca", "ca_lora", "ar_lora")
CLAIMS = (
    Claim(text="first", better="ca", worse="ar_perceiver"),
    Claim(text="second", better="ar_lora", worse="ca_lora"),
    Claim(text="alike", better="ca_lora", worse="ca", relation="similar", margin=1.5),
    Claim(text="in order", order=["ar_lora", "ca_lora", "ar_linear"]),
    Claim(text="all alike", order=["ar_linear", "ar_perceiver", "ca"], relation="similar"),
)
Table = Mapping[str, Mapping[int, float]]
Judge = Callable[..., tuple[ClaimRow, ...]]


@pytest.fixture
def judge(experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]) -> Judge:
    """The claims of a table that holds these scores: arm -> seed -> score."""

    def judged(table: Table, claims: tuple[Claim, ...] = CLAIMS) -> tuple[ClaimRow, ...]:
        records = [
            run(arm, seed, scores=[score_of("vqa", value)]) for arm, of in table.items() for seed, value in of.items()
        ]
        return report(experiment.model_copy(update={"table": TableConfig(claims=list(claims))}), records).claims

    return judged


def tables(seed: int, times: int = 12) -> list[dict[str, dict[int, float]]]:
    """Scores of arms that lie up to some points apart, over 3 to 8 seeds that move all arms; an arm may lack one."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(times):
        seeds = rng.choice(50, rng.integers(3, 9), replace=False)
        common = {int(s): rng.normal(0, 4) for s in seeds}
        apart, noise = rng.uniform(0, 4), rng.uniform(0.1, 0.8)
        table = {arm: {s: 40 + m + rng.normal(0, noise) for s, m in common.items()} for arm in ARMS}
        for arm in ARMS:
            by = rng.normal(0, apart)
            table[arm] = {s: float(v + by) for s, v in table[arm].items()}
        del table[str(rng.choice(ARMS))][int(seeds[0])]
        made.append(table)
    return made


def by_scipy(table: Table, claim: Claim, better: str, worse: str) -> tuple[float, float]:
    """Mean difference and p-value of scipy's tests over common seeds."""
    d = [v - table[worse][s] for s, v in table[better].items() if s in table[worse]]
    margin = claim.margin or 1.0
    mean = float(np.mean(d))
    if claim.relation == "better":
        return mean, float(stats.ttest_1samp(d, 0.0).pvalue)
    if abs(mean) > margin:
        return mean, float(stats.ttest_1samp(d, np.copysign(margin, mean)).pvalue)
    above = stats.ttest_1samp(d, -margin, alternative="greater").pvalue
    return mean, float(max(above, stats.ttest_1samp(d, margin, alternative="less").pvalue))


def outcome(claim: Claim, mean: float, adjusted: float) -> Verdict:
    if adjusted >= 0.05:
        return Verdict.not_separable
    holds = mean > 0 if claim.relation == "better" else abs(mean) <= (claim.margin or 1.0)
    return Verdict.agrees if holds else Verdict.contradicts


def test_verdicts_are_those_of_scipy_after_holm_over_the_whole_table(judge: Judge) -> None:
    seen = set()
    for table in tables(0, 22):
        steps = [(claim, *by_scipy(table, claim, a, b)) for claim in CLAIMS for a, b in pairwise(claim.arms)]
        expected = iter(
            [outcome(claim, mean, p) for (claim, mean, _), p in zip(steps, holm([p for *_, p in steps]), strict=True)]
        )
        for claim, row in zip(CLAIMS, judge(table), strict=True):
            outcomes = [next(expected) for _ in row.comparisons]
            assert [c.outcome for c in row.comparisons] == outcomes
            whole = (
                Verdict.agrees if set(outcomes) == {Verdict.agrees}
                else Verdict.contradicts if Verdict.contradicts in outcomes
                else Verdict.not_separable
            )  # fmt: skip
            assert (row.text, row.verdict) == (claim.text, whole)
            seen.add((claim.text, whole))
    assert len(seen) >= 12, "most verdicts came up for most claims"


def test_a_claim_the_other_way_round_has_the_other_verdict(judge: Judge) -> None:
    turn = {Verdict.agrees: Verdict.contradicts, Verdict.contradicts: Verdict.agrees}
    claim = CLAIMS[0]
    other = Claim(text="turned", better=claim.worse, worse=claim.better)
    for table in tables(1):
        (one,), (two,) = judge(table, (claim,)), judge(table, (other,))
        assert two.verdict == turn.get(one.verdict, one.verdict)
        assert two.difference.mean == pytest.approx(-one.difference.mean)
        assert two.comparisons[0].paper_gain == pytest.approx(-one.comparisons[0].paper_gain)
        assert two.comparisons[0].p == pytest.approx(one.comparisons[0].p)


def test_arms_that_are_alike_are_so_in_either_order(judge: Judge) -> None:
    claim = CLAIMS[2]
    turned = claim.model_copy(update={"better": claim.worse, "worse": claim.better})
    for table in tables(2):
        (one,), (two,) = judge(table, (claim,)), judge(table, (turned,))
        assert one.verdict == two.verdict and one.comparisons[0].p == pytest.approx(two.comparisons[0].p)


def test_what_a_seed_does_to_all_arms_and_the_order_of_claims_change_no_verdict(judge: Judge) -> None:
    rng = np.random.default_rng(3)
    for table in tables(3):
        before = {claim.text: claim for claim in judge(table)}
        moved = {seed: float(rng.uniform(-9, 9)) for of in table.values() for seed in of}
        shifted = {arm: {s: v + moved[s] for s, v in of.items()} for arm, of in table.items()}
        for claims, scores in ((CLAIMS, shifted), (CLAIMS[::-1], table)):
            for claim in judge(scores, claims):
                same = before[claim.text]
                assert (claim.verdict, claim.reason) == (same.verdict, same.reason)
                assert [c.p_holm for c in claim.comparisons] == pytest.approx([c.p_holm for c in same.comparisons])


def test_an_arm_of_no_claim_changes_no_verdict(judge: Judge) -> None:
    for table in tables(4, 6):
        alone = {arm: of for arm, of in table.items() if arm in ("ca", "ar_perceiver")}
        assert judge(alone, CLAIMS[:1]) == judge(table, CLAIMS[:1])


def test_more_claims_can_unsettle_a_verdict_and_never_turn_or_settle_one(judge: Judge) -> None:
    unsettled = 0
    for table in tables(5, 16):
        for few, many in zip(judge(table, CLAIMS[:2]), judge(table), strict=False):
            assert few.difference == many.difference
            assert many.verdict in (few.verdict, Verdict.not_separable)
            if many.verdict != few.verdict:
                unsettled += 1
                assert "settled alone, not after Holm's correction" in many.reason
    assert unsettled


@pytest.mark.parametrize("status", ["diverged", "failed", "stopped"])
def test_only_an_arm_that_diverges_with_every_one_of_two_seeds_decides_without_a_score(
    status: str, experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]
) -> None:
    claim = CLAIMS[0]
    for lost, won, loser in product((1, 2, 3), (0, 1, 2), ("worse", "better")):
        bad, good = (claim.worse, claim.better) if loser == "worse" else (claim.better, claim.worse)
        records = [run(bad, seed, status=status) for seed in range(lost)]
        records += [run(good, seed, scores=[score_of("vqa", 30.0 + seed)]) for seed in range(won)]
        made = report(experiment.model_copy(update={"table": TableConfig(claims=[claim])}), records)
        (row,) = made.claims
        decides = status == "diverged" and lost > 1 and won > 1
        one_seed = status == "diverged" and won and not decides
        settled = Verdict.agrees if loser == "worse" else Verdict.contradicts
        expected = settled if decides else Verdict.not_separable if one_seed else Verdict.not_run
        assert (row.verdict, row.difference) == (expected, None), (lost, won, loser)
        assert status in row.reason
        assert "largest" not in finding(made), "there is no difference"
        alike = Claim(text="alike", better=claim.better, worse=claim.worse, relation="similar")
        told = report(experiment.model_copy(update={"table": TableConfig(claims=[alike])}), records).claims[0]
        assert told.verdict == Verdict.not_run, "an arm without a score is not like another"


def test_what_is_said_of_correction_and_power_is_what_was_counted(
    experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]
) -> None:
    for i, table in enumerate(tables(6, 8)):
        claims = [*CLAIMS[: 1 + i % 5], Claim(text="void", better="ca", worse="ar_lora", untested={"laptop": "no"})]
        records = [run(a, s, scores=[score_of("vqa", v)]) for a, of in table.items() for s, v in of.items()]
        made = report(experiment.model_copy(update={"table": TableConfig(claims=claims)}), records)
        counted = [(row.relation, c) for row in made.claims[:-1] for c in row.comparisons]
        notes = dict(judgement_notes(made))
        assert (f"over {len(counted)} comparisons" in notes["Claims"]) == (len(counted) > 1)
        for relation, what in (("better", "a true difference of"), ("similar", "a margin of equivalence of")):
            seen = sorted(c.visible for r, c in counted if r == relation)
            told = f"{seen[0]:.1f} to {seen[-1]:.1f}" if len(seen) > 1 else f"{seen[0]:.1f}" if seen else ""
            assert (f"{what} {told} points" in notes["Power"]) == bool(seen)
        margins = sorted({row.margin for row in made.claims if row.margin})
        asked = {(): "", (1.5,): "±1.5 points.", (1.0, 1.5): "±1 or ±1.5 points."}[tuple(margins)]
        assert asked in notes["Claims"] and ("Similar" in notes["Claims"]) == bool(asked)
        assert made.claims[-1].verdict == Verdict.says_nothing and made.claims[-1].comparisons[0].p_holm is None


def test_the_finding_names_the_largest_settled_difference_the_better_arm_first(
    judge: Judge, experiment: Experiment, run: Callable[..., RunRecord], score_of: Callable[..., dict[str, Any]]
) -> None:
    for table in tables(7, 15):
        records = [run(a, s, scores=[score_of("vqa", v)]) for a, of in table.items() for s, v in of.items()]
        made = report(experiment.model_copy(update={"table": TableConfig(claims=list(CLAIMS))}), records)
        settled = [
            c for row in made.claims if row.relation == "better" for c in row.comparisons
            if c.outcome in (Verdict.agrees, Verdict.contradicts)
        ]  # fmt: skip
        told = finding(made)
        if not settled:
            assert told.endswith("no difference was settled.")
            continue
        largest = max(settled, key=lambda c: abs(c.difference.mean))
        names = (largest.better, largest.worse) if largest.difference.mean > 0 else (largest.worse, largest.better)
        assert f"“{names[0]}” over “{names[1]}” by {abs(largest.difference.mean):.1f} points" in told
        turned = replace(made, claims=tuple(reversed(made.claims)))
        assert finding(turned) == told
