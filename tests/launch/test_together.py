"""Accounts of many runs are sums over what each key stands for once; the order of runs completes tables early."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.runs.disk import write_log, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.launch.together import SECONDS_AN_ITEM, USUAL_ITEMS, Account, Work, account, seed_by_seed
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec


def spec(rng: random.Random) -> RunSpec:
    """One of few runs, of one or two stages, that share stages with others under other names."""
    stages = {"first": {"steps": rng.choice([5, 7]), "batch_size": 4}}
    if rng.random() < 0.6:
        stages["second"] = {"steps": rng.choice([3, 4]), "batch_size": 4}
    experiment, arm = rng.choice(["a/t01", "b/t02"]), rng.choice(["one", "two"])
    return make_spec(arm, rng.randrange(2), experiment=experiment, note="shared", stages=stages)


@pytest.fixture(params=range(4))
def asked(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[RunSpec], Home]:
    """Runs, of which some have ended, one diverged, and some have begun."""
    rng, home = random.Random(request.param), Home(tmp_path).prepare(0)
    specs = [spec(rng) for _ in range(9)]
    for each in specs[:6]:
        if not find_results(each, home).stages:
            if rng.random() < 0.5:
                write_results(each, home, status=rng.choice(["finished", "finished", "diverged"]), seconds=6.0)
            else:
                write_log(each, home, [(5, {"train/loss": 1.0})])
    return specs, home


def accounted(specs: Sequence[RunSpec], home: Home) -> Account:
    return account([find_results(each, home) for each in specs])


def numbers(work: Work) -> list[float]:
    return [work.runs, work.steps, work.items, round(work.seconds, 6)]


def test_each_key_counts_once_and_what_is_there_is_not_left(asked: tuple[list[RunSpec], Home]) -> None:
    specs, home = asked
    steps, items, last = dict[str, int](), dict[str, int](), set[str]()
    there, ended = set[str](), dict[str, int]()
    for each in specs:
        found = find_results(each, home)
        for key, stage in zip(each.stage_keys, each.config.stages.values(), strict=True):
            steps[key.key] = stage.steps
        last.add(each.stage_keys[-1].key)
        items |= {key.key: USUAL_ITEMS for key in each.score_keys}
        there |= {key.key for key, _ in zip(each.stage_keys, found.outcomes, strict=False)}
        there |= {key.key for key, _ in found.scores}
        ended |= {key.key: steps[key.key] for key, outcome in zip(each.stage_keys, found.outcomes, strict=False)
                  if outcome["status"] == "finished" and outcome.get("seconds")}  # fmt: skip
        if found.status == "diverged":
            there |= {key.key for key in (*each.stage_keys, *each.score_keys)}
    a_step = 6.0 * len(ended) / sum(ended.values()) if ended else 0.25

    def work(keys: set[str]) -> list[float]:
        trained, told = sum(steps[key] for key in keys & steps.keys()), sum(items[key] for key in keys & items.keys())
        return [len(keys & last), trained, told, round(trained * a_step + told * SECONDS_AN_ITEM, 6)]

    found = accounted(specs, home)
    every = {*steps, *items}
    assert numbers(found.shared) == work(every) and numbers(found.left) == work(every - there)


def test_the_order_of_runs_changes_no_account_and_one_asked_for_twice_only_what_is_asked(
    asked: tuple[list[RunSpec], Home],
) -> None:
    specs, home = asked
    once, turned, twice = (accounted(runs, home) for runs in (specs, specs[::-1], [*specs, *specs]))
    assert numbers(turned.asked) == numbers(once.asked)
    for other in (turned, twice):
        assert numbers(other.shared) == numbers(once.shared) and numbers(other.left) == numbers(once.left)
    assert numbers(twice.asked) == pytest.approx([2 * number for number in numbers(once.asked)])
    triples = zip(numbers(once.left), numbers(once.shared), numbers(once.asked), strict=True)
    assert all(left <= shared <= asked for left, shared, asked in triples)
    assert numbers(once.asked - once.asked + once.left) == numbers(once.left)


def test_nothing_is_left_of_runs_that_have_ended_and_nothing_is_asked_by_none(tmp_path: Path) -> None:
    home, runs = Home(tmp_path).prepare(0), [make_spec(arm) for arm in "ab"]
    for each in runs:
        write_results(each, home)
    assert accounted(runs, home).left == Work() == accounted([], home).asked
    one = accounted(runs[:1], home), accounted(runs[1:], home)
    assert numbers(one[0].asked + one[1].asked) == numbers(accounted(runs, home).asked)


@pytest.mark.parametrize("number", range(20))
def test_every_table_has_a_seed_before_any_has_its_next_and_keeps_its_own_order(number: int) -> None:
    rng = random.Random(number)
    tables = [
        [
            make_spec(arm, seed, experiment=f"t/{name}")
            for seed in rng.sample(range(5), rng.randrange(4))
            for arm in "ab"
        ]
        for name in range(3)
    ]
    order = seed_by_seed(tables)
    assert sorted(each.id for each in order) == sorted(each.id for table in tables for each in table)
    for table in tables:
        assert [each for each in order if each.experiment == (table or order)[0].experiment] == table or not table
    turns = [list(dict.fromkeys(each.seed for each in table)) for table in tables]
    reached = [turns[int(each.experiment[-1])].index(each.seed) for each in order]
    assert reached == sorted(reached)
