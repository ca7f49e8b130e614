"""The best, the order and the front of trials, against what each is by definition; whichever way is better."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vlm_ablate.cli.sweep_view import short_names, table_of
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.reporting.statistics import Estimate
from vlm_ablate.sweeps.apply import winners
from vlm_ablate.sweeps.config import Objective
from vlm_ablate.sweeps.results import StudyResult, TrialRecord

OUTCOMES = ("finished", "finished", "finished", "pruned", "failed", "running", "does not fit")


def study(seed: int, **objective: Any) -> StudyResult:
    """Trials with few different values, so that many are equal."""
    rng = random.Random(seed)
    trials = []
    for number in range(rng.randrange(12)):
        outcome, score = rng.choice(OUTCOMES), float(rng.randrange(5))
        values = (score, float(rng.randrange(4))) if "against" in objective else (score,)
        ended = outcome == "finished"
        mean = Estimate(score, None, 1) if ended else None
        trials.append(TrialRecord(number, outcome, {"arm": rng.choice("ab")}, mean, values if ended else ()))
    return StudyResult(f"s{seed}", Objective(**objective), tuple(trials))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(25))
def test_the_front_is_what_no_other_is_better_than_in_one_and_as_good_in_the_other(seed: int, direction: str) -> None:
    result = study(seed, against="flops", direction=direction)
    sign = 1 if direction == "maximize" else -1

    def beats(one: TrialRecord, other: TrialRecord) -> bool:
        (mine, cost), (theirs, others) = one.objectives, other.objectives
        return sign * mine >= sign * theirs and cost <= others and (mine, cost) != (theirs, others)

    scored = [trial for trial in result.trials if trial.outcome == "finished"]
    wanted = {trial.objectives for trial in scored if not any(beats(other, trial) for other in scored)}
    assert [trial.objectives for trial in result.front] == sorted(wanted, key=lambda point: point[1])
    for kept in result.front:  # of equal ones the first
        assert kept.number == min(trial.number for trial in scored if trial.objectives == kept.objectives)
    turned = StudyResult(result.name, result.objective, result.trials[::-1])
    assert turned.front == result.front and turned.finished == result.finished


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("seed", range(15))
def test_the_best_comes_first_and_of_equal_ones_the_earlier(seed: int, direction: str) -> None:
    result = study(seed, direction=direction)
    scores = [trial.objectives[0] for trial in result.finished]
    assert scores == sorted(scores, reverse=direction == "maximize")
    assert sorted(trial.number for trial in result.finished) == [t.number for t in result.trials if t.score]
    for one, other in zip(result.finished, result.finished[1:], strict=False):
        assert one.objectives != other.objectives or one.number < other.number
    assert sum(result.counts().values()) == len(result.trials)


@pytest.mark.parametrize("seed", range(15))
def test_a_winner_of_each_study_is_its_best_or_the_one_that_was_named(seed: int) -> None:
    result = study(seed)
    if not result.finished:
        with pytest.raises(VlmAblateError, match=f"s{seed}: no trial is finished"):
            winners([result])
        return
    ((arm, (_, best)),) = winners([result]).items()
    assert best.outcome == "finished" and arm == best.arm
    assert all(best.objectives[0] >= trial.objectives[0] for trial in result.finished)
    for trial in result.trials:
        if trial.score:
            assert winners([result], trial.number) == {trial.arm: (result, trial)}
        else:
            with pytest.raises(VlmAblateError, match=f"no trial {trial.number} is finished"):
                winners([result], trial.number)


def test_fields_of_two_stages_have_names_that_tell_them_apart() -> None:
    fields = ["arm", "stages.align.learning_rate", "stages.tune.learning_rate", "stages.tune.lora.r", "data.r"]
    names = short_names(fields)
    assert [*names.values()] == ["arm", "align.learning_rate", "tune.learning_rate", "lora.r", "data.r"]
    rates = {"stages.align.learning_rate": 1.0, "stages.tune.learning_rate": 2.0}
    trial = TrialRecord(0, "finished", {"arm": "a", **rates}, Estimate(1.0, None, 1), (1.0,))
    columns, _ = table_of(StudyResult("s", Objective(), (trial,)), 5)
    assert columns[3:5] == ["align.learning_rate", "tune.learning_rate"]


def test_only_the_first_trial_of_an_arm_is_the_file_while_another_has_no_values_yet() -> None:
    done = [TrialRecord(n, "finished", {"arm": "a"}, Estimate(1.0, None, 1), (1.0,)) for n in range(2)]
    _, rows = table_of(StudyResult("s", Objective(), (*done, TrialRecord(2, "running", {}, None))), 5)
    assert [row[-1] for row in rows] == ["as the file has it", ""]
