"""What is said of a result that is not there: the very field in which the nearest differs, with both values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.runs.disk import score_record, write_results
from tests.runs.fields import Changed, changed_alone, runs_of_every_part
from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.runs.explain import Explained, explain
from vlm_ablate.runs.folder import find_stage
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.spec import RunSpec

FOLLOWS = ("views.", "part_numerics.", "template", "scorer", "files of ")
"""What keys cover beside fields, and that may follow from one."""


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, Home]:
    """A run whose results are in a home."""
    home = Home(tmp_path_factory.mktemp("home")).prepare(0)
    spec = runs_of_every_part()["curve"]
    write_results(spec, home)
    return spec, home


def as_keys_call_it(change: Changed) -> str:
    """The field as it stands in what a key covers."""
    section, *path = change.path
    if section == "stages":
        return ".".join([f"stages[{['align', 'tune'].index(path[0])}]", *path[1:]])
    if section == "model":
        return change.name
    if path[0] == "benchmarks":
        path = path[2:]
    prepared = ["prepared"] if path[0] in ("image", "prompt") else []
    return ".".join([*prepared, *path])


def told_of(missing: Explained, name: str) -> list[tuple[Any, Any]]:
    """(here, there) of a field, or of what is below it."""
    return [(here, old) for field, here, old in missing.differing if field == name or field.startswith(f"{name}.")]


def test_the_nearest_stage_differs_in_the_field_that_was_changed_and_in_what_follows_from_it(
    there: tuple[RunSpec, Home],
) -> None:
    spec, home = there
    training = [change for change in changed_alone(spec) if change.decides == "training"]
    assert len(training) > 60
    for change in training:
        first = ["align", "tune"].index(change.path[1]) if change.path[0] == "stages" else 0
        with looking_once():
            told = explain(change.spec, home)
        moved = change.spec.stage_keys[0].inputs["views"] != spec.stage_keys[0].inputs["views"]
        states = ["finished"] * (0 if moved else first) + ["missing"] * (len(told) - (0 if moved else first))
        assert [each.state for each in told] == states, change.name
        name, stage = as_keys_call_it(change), told[first]
        assert stage.nearest == spec.stage_keys[first].key, change.name
        ((here, old), *_) = told_of(stage, name)
        assert here != old, change.name
        rest = [field for field, *_ in stage.differing if not field.startswith((*FOLLOWS, name))]
        assert rest == [], change.name


def test_the_nearest_score_differs_in_the_field_that_was_changed_and_in_what_follows_from_it(
    there: tuple[RunSpec, Home],
) -> None:
    spec, home = there
    asked = [change for change in changed_alone(spec) if change.decides == "score"]
    missing = 0
    for change in asked:
        for told in explain(change.spec, home):
            if told.state != "missing" or told.what.startswith("stage") or not told.nearest:
                continue
            missing += 1
            name = as_keys_call_it(change).removeprefix("ceiling").removeprefix("blind") or "mode"
            assert told_of(told, name), change.name
            assert all(field.startswith((*FOLLOWS, name)) for field, *_ in told.differing), change.name
    assert missing > 20


def test_everything_is_explained_in_the_order_in_which_it_is_computed(there: tuple[RunSpec, Home]) -> None:
    spec, home = there
    told = explain(spec, home)
    names = ["stage align", "stage tune", "score vqa", "score vqa (blind)"]
    assert [each.what for each in told] == names and {each.state for each in told} == {"finished"}
    assert [each.key for each in told] == [key.key for key in (*spec.stage_keys, *spec.score_keys)]
    assert all(each.nearest is None and each.differing == () for each in told)


def test_of_several_the_nearest_is_one_that_differs_in_the_fewest_fields(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare(0)
    near, far = ({"train": {"steps": 10, "batch_size": 4, **more}} for more in (
        {"learning_rate": 1e-3}, {"learning_rate": 1e-3, "weight_decay": 0.5}))  # fmt: skip
    for stages in (far, near):
        write_results(make_spec(stages=stages), home)
    (stage, *_) = explain(make_spec(), home)
    assert stage.nearest == make_spec(stages=near).stage_keys[0].key
    assert stage.differing == (("stages[0].learning_rate", 1e-4, 1e-3),)


def released(id: str, **evaluation: Any) -> RunSpec:
    """A checkpoint that is scored as it is."""
    body = make_spec().to_dict()
    body["config"] |= {"stages": {}, "evaluation": body["config"]["evaluation"] | evaluation}
    body["config"]["model"]["init_from"] = id
    return RunSpec.from_dict(body)


def write_released(spec: RunSpec, home: Home) -> None:
    (key,) = spec.stage_keys
    folder = find_stage(home, key.key, key.fingerprints(home), None)
    folder.describe({"before": None, "inputs": key.inputs, "fingerprints": key.fingerprints(home)})
    folder.end({"stage": key.name, "status": "finished"})
    for score in spec.score_keys:
        found = folder.score(score.key, score.fingerprints())
        found.describe({"inputs": score.inputs, "fingerprints": score.fingerprints()})
        found.end(score_record(score, 50.0))


def test_of_a_checkpoint_as_it_is_the_nearest_is_another_one_and_no_stage_that_was_trained(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare(0)
    write_results(make_spec(), home)
    assert explain(released("hub/one"), home)[0].nearest is None
    write_released(released("hub/one"), home)
    (stage, *_) = explain(released("hub/two"), home)
    assert (stage.nearest, stage.differing) == (
        released("hub/one").stage_keys[0].key, (("model.init_from", "hub/two", "hub/one"),))  # fmt: skip
    (trained, *_) = explain(make_spec(note="other"), home)
    assert trained.nearest == make_spec().stage_keys[0].key


def test_files_that_differ_are_named_though_every_field_is_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, spec, files = Home(tmp_path).prepare(0), make_spec(), {"language": "aaaa", "vision": "bbbb"}

    def as_they_are(parts: Mapping[str, Any]) -> dict[str, str]:
        return {what: digest for what, digest in files.items() if what in parts}

    monkeypatch.setattr("vlm_ablate.runs.keys.fingerprints_of", as_they_are)
    write_results(spec, home)
    files["language"] = "cccc"
    (stage, *_) = explain(spec, home)
    assert (stage.state, stage.differing) == ("missing", (("files of language", "cccc", "aaaa"),))
    files["language"] = ""  # not on this machine: it agrees with anything
    assert explain(spec, home)[0].state == "finished"


def test_where_a_result_was_made_and_when_is_told(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare(0)
    write_results(replace(make_spec(), seed=3), home, provenance={"vlm.machine": "here"}, ended_ms=1_700_000_000_000)
    told = explain(make_spec(), home)[0]
    assert told.where.startswith("2023-11-1") and told.where.endswith(", here")
