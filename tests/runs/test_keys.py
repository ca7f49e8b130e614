"""What decides a result and what does not, by counting optimiser steps and answers."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook
from training.squares import STAGE, make_spec

from vlm_ablate.home import Home
from vlm_ablate.models.connectors.configs import LinearConfig
from vlm_ablate.runs import train
from vlm_ablate.runs.execute import execute
from vlm_ablate.runs.explain import explain
from vlm_ablate.runs.find import find_run
from vlm_ablate.runs.keys import key_of
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.outcome import RunOutcome
from vlm_ablate.runs.rerun import put_aside
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec, seeds_from

FIRST: dict[str, Any] = STAGE | {"steps": 5}
SECOND: dict[str, Any] = STAGE | {"steps": 3, "language": "full"}
STAGES: dict[str, Any] = {"align": FIRST, "tune": SECOND}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, parts: Path, store_template: Path) -> Home:
    """A home with the finished run of `STAGES`."""
    home = Home(tmp_path_factory.mktemp("finished")).prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    assert execute(make_spec(parts, stages=STAGES), home=home).status == "finished"
    return home


@pytest.fixture
def home(finished: Home, tmp_path: Path) -> Home:
    """A copy of it."""
    shutil.copytree(finished.root, tmp_path / "home")
    return Home(tmp_path / "home").prepare(minimum_free=0)


class Steps:
    """Optimiser steps taken since it was made."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, *_: Any) -> None:
        self.count += 1


@pytest.fixture
def steps() -> Iterator[Steps]:
    taken = Steps()
    handle = register_optimizer_step_post_hook(taken.add)
    yield taken
    handle.remove()


def run(spec: RunSpec, home: Home) -> RunOutcome:
    outcome = execute(spec, home=home)
    assert outcome.status == "finished", outcome.message
    return outcome


def test_the_count_is_real(tmp_path: Path, parts: Path, store_template: Path, steps: Steps) -> None:
    home = Home(tmp_path / "new").prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    run(make_spec(parts, stages=STAGES), home)
    assert steps.count == 8


@pytest.mark.parametrize(
    "evaluation",
    [
        {"shots": 2},
        {"benchmarks": {"colour": {"benchmark": "squares"}, "again": {"benchmark": {"name": "squares", "items": 5}}}},
        {"benchmarks": {"colour": {"benchmark": "squares", "split": "tune"}}},
        {"benchmarks": {"colour": {"benchmark": "squares", "limit": 4}}},
        {"blind": False},
        {"demonstrations": {"seed": 7}},
    ],
    ids=["shots", "column", "split", "limit", "blind", "demonstrations"],
)
def test_what_decides_scores_trains_nothing(evaluation: dict[str, Any], home: Home, parts: Path, steps: Steps) -> None:
    spec = make_spec(parts, stages=STAGES, **evaluation)
    assert spec.id != make_spec(parts, stages=STAGES).id
    outcome = run(spec, home)
    assert steps.count == 0
    assert outcome.trained == ()
    assert set(outcome.scores) == set(spec.config.evaluation.benchmarks)


def test_all_that_decides_a_score_is_in_its_key(parts: Path) -> None:
    def keys(**evaluation: Any) -> set[str]:
        return {score.key for score in make_spec(parts, stages=STAGES, **evaluation).score_keys}

    def entry(**fields: Any) -> dict[str, Any]:
        return {"benchmarks": {"colour": {"benchmark": "squares", **fields}}}

    asked = [{}, {"shots": 0}, {"shots": 2}, {"demonstrations": {"seed": 7}}, {"image": {"size": 32}},
             {"precision": "bf16"}, entry(split="tune"), entry(limit=4), entry(shots=3),
             entry(benchmark={"name": "squares", "items": 5})]  # fmt: skip
    found = [key for evaluation in asked for key in keys(**evaluation)]
    assert len(set(found)) == len(found) == 2 * len(asked)  # with images and without
    assert keys(**entry(shots=2)) == keys(shots=2), "where it is written decides nothing"


@pytest.mark.parametrize("evaluation", [{}, {"shots": 2, "precision": "bf16"}])
def test_the_key_of_a_score_is_that_of_what_went_into_it(parts: Path, evaluation: dict[str, Any]) -> None:
    one = make_spec(parts, stages=STAGES, **evaluation)
    with looking_once():
        for spec in (one, replace(one, seeds=seeds_from(1))):
            assert [score.key for score in spec.score_keys] == [key_of(score.inputs) for score in spec.score_keys]
            assert {score.inputs["weights"] for score in spec.score_keys} == {spec.stage_keys[-1].key}


def test_fixed_demonstrations_are_scores_of_their_own_and_say_what_they_share(
    home: Home, parts: Path, steps: Steps
) -> None:
    fixed = {"demonstrations": {"selection": "fixed"}, "shots": 2}
    before = set(home.stages.rglob("score.json"))
    assert all("shared_prompts" not in json.loads(file.read_text()) for file in before), "on a CPU: as ever"
    run(make_spec(parts, stages=STAGES, **fixed), home)
    new = [json.loads(file.read_text()) for file in set(home.stages.rglob("score.json")) - before]
    assert steps.count == 0 and {body["demonstrations"] for body in new} == {"fixed"}
    seen, blind = sorted((body["shared_prompts"] | {"blind": body["blind"]} for body in new), key=lambda b: b["blind"])
    assert 0 < seen["computed"] < seen["positions"] and seen["encoded"] > 0 == blind["encoded"]
    assert run(make_spec(parts, stages=STAGES, execution={"shared_prompts": "off"}, **fixed), home).reused


def test_a_column_joins_those_that_are_there(home: Home, parts: Path) -> None:
    answered = sorted(home.stages.rglob("predictions.jsonl"))
    times = {file: file.stat().st_mtime_ns for file in answered}
    both = {"colour": {"benchmark": "squares"}, "again": {"benchmark": {"name": "squares", "items": 5}}}
    run(make_spec(parts, stages=STAGES, benchmarks=both), home)
    assert {file: file.stat().st_mtime_ns for file in answered} == times
    assert len(list(home.stages.rglob("predictions.jsonl"))) == len(answered) + 2  # seen and blind


@pytest.mark.parametrize(
    "execution",
    [
        {"log_every": 1}, {"checkpoint_every": 1}, {"workers": 1}, {"micro_batch_size": 1},
        {"evaluation_batch_size": 2}, {"shared_prompts": "on"}, {"gradient_checkpointing": True},
        {"stages": {"tune": {"micro_batch_size": 4}}},
    ],
    ids=str,
)  # fmt: skip
def test_how_it_is_computed_recomputes_nothing(
    execution: dict[str, Any], home: Home, parts: Path, steps: Steps
) -> None:
    outcome = run(make_spec(parts, stages=STAGES, execution=execution), home)
    assert outcome.reused
    assert steps.count == 0


def test_a_first_stage_in_common_is_trained_once(home: Home, parts: Path, steps: Steps) -> None:
    changed = copy.deepcopy(STAGES)
    changed["tune"] |= {"learning_rate": 5e-3}
    outcome = run(make_spec(parts, stages=changed, arm="slower", experiment="tests/other"), home)
    assert outcome.trained == ("tune",)
    assert steps.count == SECOND["steps"]


def test_a_stage_started_from_another_arms_gives_what_the_whole_run_gives(
    home: Home, tmp_path: Path, parts: Path, store_template: Path
) -> None:
    changed = copy.deepcopy(STAGES)
    changed["tune"] |= {"learning_rate": 5e-3}
    spec = make_spec(parts, stages=changed)
    alone = Home(tmp_path / "alone").prepare(minimum_free=0)
    shutil.copyfile(store_template, alone.database)
    run(spec, home)
    run(spec, alone)
    mine, theirs = find_results(spec, home), find_results(spec, alone)
    assert mine.stages[-1].weights.read_bytes() == theirs.stages[-1].weights.read_bytes()


def test_one_stage_fewer_is_there_already(home: Home, parts: Path, steps: Steps) -> None:
    run(make_spec(parts, stages={"align": FIRST}, arm="short"), home)
    assert steps.count == 0


def test_a_stage_called_otherwise_is_the_same(home: Home, parts: Path, steps: Steps) -> None:
    run(make_spec(parts, stages={"first": FIRST, "second": SECOND}), home)
    assert steps.count == 0


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        ({"stages": {"align": FIRST | {"learning_rate": 3e-3}, "tune": SECOND}}, 8),
        ({"stages": STAGES, "seed": 1}, 8),
        ({"stages": STAGES, "source": {"rows": 49}}, 8),
        ({"stages": STAGES, "connector": {"name": "mlp"}}, 8),
    ],
    ids=["stage", "seed", "data", "model"],
)
def test_what_decides_training_trains(
    change: dict[str, Any], trained: int, home: Home, parts: Path, steps: Steps
) -> None:
    run(make_spec(parts, **change), home)
    assert steps.count == trained


def changed_weights(file: Path) -> None:
    """The last byte of the last tensor is another."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_weights_that_changed_in_place_are_trained_upon_again(
    tmp_path: Path, parts: Path, store_template: Path, steps: Steps
) -> None:
    own = tmp_path / "own"
    shutil.copytree(parts, own)
    home = Home(tmp_path / "home").prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    spec = make_spec(own, stages=STAGES)
    run(spec, home)
    changed_weights(own / "lm" / "model.safetensors")
    assert not find_results(spec, home).done
    told = explain(spec, home)[0]
    assert (told.state, [field for field, *_ in told.differing]) == ("missing", ["files of language"])
    run(spec, home)
    assert steps.count == 16
    changed_weights(own / "lm" / "model.safetensors")  # as they were: the first result is there still
    assert run(spec, home).reused
    assert steps.count == 16


def test_what_is_not_on_this_machine_does_not_take_results_away(tmp_path: Path, parts: Path, finished: Home) -> None:
    """A table is drawn where the weights have never been."""
    spec = make_spec(parts, stages=STAGES)
    moved = parts / "lm-elsewhere"
    (parts / "lm").rename(moved)
    try:
        assert find_results(spec, finished).done
    finally:
        moved.rename(parts / "lm")


def test_rerun_keeps_what_was_there_and_gives_the_same(home: Home, parts: Path, steps: Steps) -> None:
    spec = make_spec(parts, stages=STAGES)
    before = find_results(spec, home).stages[-1].weights.read_bytes()
    aside = put_aside([spec], home)
    assert len(aside) == 2
    run(spec, home)
    assert steps.count == 8
    assert find_results(spec, home).stages[-1].weights.read_bytes() == before
    assert all((folder / "weights.safetensors").is_file() for folder in aside)


def test_a_run_is_found_by_arm_and_seed_in_each_experiment_that_uses_it(home: Home, parts: Path) -> None:
    run(make_spec(parts, stages=STAGES, experiment="tests/other", arm="the_same"), home)
    found = find_run("the_same · seed 0", home)
    assert found.weights == find_run("tests/squares mlp seed 0", home).weights


def test_a_key_says_what_went_into_it(finished: Home, parts: Path) -> None:
    stage = find_results(make_spec(parts, stages=STAGES), finished).stages[-1]
    told = json.loads((stage.root / "stage.json").read_text())
    assert told["inputs"]["seeds"] == {"init": 0, "data": 0, "dropout": 0}
    assert [s["steps"] for s in told["inputs"]["stages"]] == [5, 3]
    assert "batch_size" in told["inputs"]["stages"][0]
    assert "log_every" not in json.dumps(told["inputs"])
    assert set(told["fingerprints"]) >= {"vision", "language"}


def test_explain_names_the_field_in_which_the_nearest_differs(home: Home, parts: Path) -> None:
    changed = copy.deepcopy(STAGES)
    changed["tune"] |= {"learning_rate": 5e-3}
    told = explain(make_spec(parts, stages=changed), home)
    assert [t.state for t in told] == ["finished", "missing", "missing", "missing"]
    assert told[1].differing == (("stages[1].learning_rate", 5e-3, 1e-2),)


def test_nothing_starts_from_damaged_weights(home: Home, parts: Path, steps: Steps) -> None:
    first = find_results(make_spec(parts, stages=STAGES), home).stages[0].weights
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    changed = copy.deepcopy(STAGES)
    changed["tune"] |= {"learning_rate": 5e-3}
    outcome = execute(make_spec(parts, stages=changed), home=home)
    assert outcome.status == "failed" and f"{first} is damaged" in outcome.message and steps.count == 0


def test_what_another_run_trained_while_this_one_waited_is_taken(
    tmp_path: Path, parts: Path, store_template: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "new").prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    real, waited = train.leased, []

    def late(*arguments: Any) -> Any:
        if not waited:
            waited.append(True)
            run(make_spec(parts, stages=STAGES, experiment="tests/other"), home)
        return real(*arguments)

    monkeypatch.setattr(train, "leased", late)
    assert run(make_spec(parts, stages=STAGES), home).trained == ()
    assert steps.count == 8


def test_the_numerics_of_a_part_are_in_the_keys_of_runs_with_it(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [key.key for key in make_spec(parts, stages=STAGES).stage_keys]
    mapped = make_spec(parts, stages=STAGES, connector={"name": "mapping_network"}).stage_keys
    assert [key.inputs["part_numerics"] for key in mapped] == [{"connector": 2}] * 2
    assert [key.key for key in make_spec(parts, stages=STAGES).stage_keys] == before
    monkeypatch.setattr(LinearConfig, "numerics", 2)
    assert not {key.key for key in make_spec(parts, stages=STAGES).stage_keys} & {*before}


def test_the_numerics_of_dora_are_in_the_keys_of_stages_with_dora_and_of_those_after(parts: Path) -> None:
    def with_dora(**stages: dict[str, Any]) -> list[bool]:
        keys = make_spec(parts, stages=stages).stage_keys
        return ["dora_numerics" in json.dumps(key.inputs) for key in keys]

    dora = STAGE | {"language": "dora"}
    assert with_dora(align=FIRST, tune=SECOND) == [False, False]
    assert with_dora(align=FIRST, tune=dora) == [False, True]
    assert with_dora(align=dora, tune=SECOND) == [True, True]
