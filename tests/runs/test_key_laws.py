"""Keys over the whole schema: a field changed alone changes the keys that its mark says, of its stage and those after.

A field that is left out of a key hands back weights or scores of another configuration without a word; one too many
trains again what is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from tests.runs.fields import Changed, all_fields, every_field_changed, runs_of_every_part
from tests.tracking.specs import make_spec
from vlm_ablate.models.views import Views
from vlm_ablate.runs.keys import curve_keys, stage_keys
from vlm_ablate.runs.once import looking_once
from vlm_ablate.runs.spec import RunSpec, Trial, seeds_from

UNCHANGED = {("EvaluationConfig", "curve"), ("Execution", "stages"), ("PairsConfig", "caption")}
"""Fields that hold others, which are changed one by one, or that need a second field beside them."""


@cache
def changes() -> Sequence[tuple[RunSpec, Changed]]:
    return tuple(every_field_changed())


def keys(spec: RunSpec) -> list[str]:
    return [key.key for key in spec.stage_keys]


def scores(spec: RunSpec) -> dict[tuple[str, str], str]:
    return {(score.column, score.mode): score.key for score in spec.score_keys}


def of(kind: str) -> list[tuple[RunSpec, Changed]]:
    found = [(spec, change) for spec, change in changes() if change.decides == kind]
    assert len(found) > 15
    return found


def test_every_field_of_a_run_is_among_those_that_are_changed_here() -> None:
    every = {field for spec in runs_of_every_part().values() for field in all_fields(spec)}
    assert every - {(change.owner, change.path[-1]) for _, change in changes()} == UNCHANGED


def test_what_decides_weights_is_in_the_keys_of_its_stage_and_of_all_after_it_and_of_their_scores() -> None:
    for spec, change in of("training"):
        names = list(spec.config.stages)
        first = names.index(change.path[1]) if change.path[0] == "stages" else 0
        now = keys(change.spec)
        assert now[:first] == keys(spec)[:first] or views(spec) != views(change.spec), change.name
        assert not {*now[first:]} & {*keys(spec)}, change.name
        assert not {*scores(change.spec).values()} & {*scores(spec).values()}, change.name
        assert change.spec.id != spec.id, change.name


def views(spec: RunSpec) -> Views:
    return Views.of(spec.config.images())


def test_what_decides_a_score_is_in_no_key_of_weights_unless_they_are_built_for_other_views() -> None:
    for spec, change in of("score"):
        assert (keys(change.spec) == keys(spec)) == (views(change.spec) == views(spec)), change.name
        assert change.spec.id != spec.id, change.name


def test_what_decides_a_score_is_in_its_key_and_what_is_of_one_column_in_no_others() -> None:
    for spec, change in of("score"):
        before, now = scores(spec), scores(change.spec)
        both = before.keys() & now.keys()
        same = {column for column, mode in both if before[column, mode] == now[column, mode]}
        match change.path[1:]:
            case ("benchmarks", column, *_) if views(spec) == views(change.spec):
                assert same == {name for name, _ in both} - {column}, change.name
            case ("blind",) | ("ceiling",):
                assert len(before.keys() ^ now.keys()) == len(spec.config.evaluation.benchmarks), change.name
                assert same == {*spec.config.evaluation.benchmarks}, change.name
            case ("image", *_):  # of columns that say nothing themselves; in a resolved run each says all
                assert views(spec) != views(change.spec) or same == {column for column, _ in before}, change.name
            case ("curve", *_):
                assert before == now, change.name
                asked = curve_keys(spec.config) == curve_keys(change.spec.config)
                assert asked == (change.path[-1] != "limit"), change.name
            case _:
                assert not same, change.name


def test_how_a_run_is_computed_is_in_no_key() -> None:
    for spec, change in of("execution"):
        assert change.path[0] == "execution"
        assert (keys(change.spec), scores(change.spec), change.spec.id) == (keys(spec), scores(spec), spec.id)
        assert curve_keys(change.spec.config) == curve_keys(spec.config), change.name


def test_what_a_run_is_called_is_in_no_key_of_a_result() -> None:
    spec = make_spec(stages={"one": {"steps": 3, "batch_size": 2}, "two": {"steps": 4, "batch_size": 2}})
    stages = {"first": {"steps": 3, "batch_size": 2}, "then": {"steps": 4, "batch_size": 2}}
    renamed = make_spec("other", experiment="demo/t02", note="mlp", label="Other", stages=stages)
    assert keys(renamed) == keys(spec) and scores(renamed) == scores(spec) and renamed.id != spec.id
    labels: dict[str, Any] = {"label": "L", "paper": None, "cell": None, "stand_ins": {}, "scaled": {},
                              "trial": Trial("s", 3), "evaluated": True}  # fmt: skip
    for name, value in labels.items():
        assert replace(spec, **{name: value}).id == spec.id, name
    told = {replace(spec, **{name: value}).id for name, value in
            {"experiment": "x", "arm": "x", "seed": 7, "scale": "x"}.items()}  # fmt: skip
    assert len(told | {spec.id}) == 5


@pytest.mark.parametrize("stream", ["init", "data", "dropout"])
def test_each_stream_of_random_numbers_decides_weights_and_those_of_a_checkpoint_as_it_is_none(stream: str) -> None:
    spec = runs_of_every_part()["started"]
    other = spec.seeds.model_copy(update={stream: 12345})
    now = stage_keys(spec.config, other)
    assert not {key.key for key in now} & {*keys(spec)}
    whole = spec.config.model.model_copy(update={"init_from": "hub/x"})
    asked = spec.config.evaluation.model_copy(update={"curve": None})
    released = spec.config.model_copy(update={"model": whole, "stages": {}, "evaluation": asked})
    assert stage_keys(released, spec.seeds) == stage_keys(released, other)


def test_seeds_of_runs_and_streams_are_all_different_and_fit_every_generator() -> None:
    drawn = [value for number in range(300) for value in seeds_from(number).model_dump().values()]
    assert len({*drawn}) == len(drawn) and all(0 <= value < 2**31 for value in drawn)
    assert seeds_from(5) == seeds_from(5)


def test_keys_are_the_same_after_a_way_through_a_file_and_where_many_are_read_at_once() -> None:
    for name, spec in runs_of_every_part().items():
        again = RunSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
        assert again == spec, name
        with looking_once():
            once = [RunSpec.from_dict(spec.to_dict()) for _ in range(2)]
            told = [(keys(each), scores(each), each.id) for each in once]
        assert told == [(keys(spec), scores(spec), spec.id)] * 2, name
