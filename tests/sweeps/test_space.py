"""Spaces of all kinds: what is proposed, listed, checked and shown of one is the same set of combinations."""

from __future__ import annotations

import itertools
import json
from decimal import Decimal
from typing import Any

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from vlm_ablate.sweeps.config import ARM, Dimension, Sweep, conditions, holds
from vlm_ablate.sweeps.space import Space, Values, extremes, listed

NAMES = ("stages.a.x", "stages.a.y", "stages.a.z", "model.w")
ARMS = ["one", "two", "three"]
MANY = settings(max_examples=20, deadline=None)


@st.composite
def dimensions(draw: Any) -> dict[str, Any]:
    """A dimension with few values, without conditions."""
    kind = draw(st.sampled_from(["choices", "whole", "steps"]))
    if kind == "choices":
        return {"choices": draw(st.lists(st.sampled_from([1, 2, 3, "a", None]), min_size=1, max_size=3, unique=True))}
    if kind == "whole":
        low = draw(st.integers(0, 3))
        return {"low": low, "high": low + draw(st.integers(1, 4)), "step": draw(st.sampled_from([None, 1, 2, 3]))}
    step, low = draw(st.sampled_from(["0.1", "0.05", "0.3", "0.0001"])), draw(st.sampled_from(["0", "0.1", "0.7"]))
    high = Decimal(low) + Decimal(step) * draw(st.integers(1, 3)) + draw(st.sampled_from([0, Decimal(step) / 2]))
    return {"low": float(low), "high": float(high), "step": float(step)}


@st.composite
def sweeps(draw: Any, **more: Any) -> Sweep:
    """A sweep over several arms whose fields have conditions on each other, all of which can be met."""
    space: dict[str, dict[str, Any]] = {}
    for name in draw(st.permutations(NAMES)):
        space[name] = {key: value for key, value in draw(dimensions()).items() if value is not None}
        known = {
            other: list(listed(Dimension(**{k: v for k, v in body.items() if k != "when"})))
            for other, body in space.items()
        }
        del known[name]
        known[ARM] = ARMS
        for other in draw(st.lists(st.sampled_from(sorted(known)), max_size=2, unique=True)):
            wanted = draw(st.lists(st.sampled_from(known[other]), min_size=1, max_size=2, unique=True))
            space[name].setdefault("when", {})[other] = wanted if len(wanted) > 1 else wanted[0]
    body = {"name": "s", "experiment": {"file": "x", "arms": ARMS, **more}, "space": space, "sampler": "grid"}
    try:
        return Sweep.model_validate(body)
    except ValidationError as error:
        assume("is never met" not in str(error))
        raise


def searched(space: dict[str, Dimension], name: str, values: Values) -> bool:
    """Whether a field is searched, as the docs say: its conditions hold, of fields that are searched, too."""
    for other, wanted in space[name].when.items():
        if other != ARM and not searched(space, other, values):
            return False
        if values[other] not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def combinations(sweep: Sweep, arms: list[str]) -> set[str]:
    """By trying everything."""
    every = {ARM: arms, **{name: list(listed(d)) for name, d in sweep.space.items()}}
    found = set()
    for values in itertools.product(*every.values()):
        whole = dict(zip(every, values, strict=True))
        kept = {name: value for name, value in whole.items() if name == ARM or searched(sweep.space, name, whole)}
        if len(arms) == 1:
            del kept[ARM]
        found.add(json.dumps(kept, sort_keys=True))
    return found


@given(sweep=sweeps())
@MANY
def test_a_grid_is_every_combination_of_what_is_searched_together_once(sweep: Sweep) -> None:
    for arms in (ARMS, ARMS[:2], *([arm] for arm in ARMS)):
        told = [json.dumps(values, sort_keys=True) for values in Space.of(sweep.space, arms).grid()]
        assert len(told) == len({*told})
        assert {*told} == combinations(sweep, arms)


@given(sweep=sweeps(), seed=st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_what_a_sampler_proposes_is_a_combination_of_the_grid_to_the_last_digit(sweep: Sweep, seed: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for arms in (ARMS, ARMS[:1]):
        space, study = Space.of(sweep.space, arms), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
        every = [json.dumps(values, sort_keys=True) for values in space.grid()]
        for _ in range(5):
            trial = study.ask()
            values = space.suggest(trial)
            assert json.dumps(values, sort_keys=True) in every
            assert space.exact(trial.params) == values
            study.tell(trial, 0.0)


@given(sweep=sweeps())
@MANY
def test_a_field_is_searched_with_the_values_that_enable_it_in_every_order_of_its_conditions(sweep: Sweep) -> None:
    space = Space.of(sweep.space, ARMS)
    for name in sweep.space:
        enabling = space.enabling(name)
        for other in enabling:
            assert other == ARM or space.active(other, enabling)
        assert space.active(name, enabling)
        turned = {n: d.model_copy(update={"when": dict(reversed(d.when.items()))}) for n, d in sweep.space.items()}
        assert {k: {*map(str, v)} for k, v in conditions(turned, name).items()} == {
            k: {*map(str, v)} for k, v in conditions(sweep.space, name).items()}  # fmt: skip


@given(sweep=sweeps(per_arm=True))
@MANY
def test_a_space_of_one_arm_has_the_fields_that_are_searched_with_it_and_no_others(sweep: Sweep) -> None:
    whole = Space.of(sweep.space, ARMS)
    for arm in ARMS:
        own = Space.of(sweep.space, [arm])
        with_it = {name for values in whole.grid() if values[ARM] == arm for name in values} - {ARM}
        assert {*own.dimensions} == with_it
        assert all(ARM not in own.enabling(name) for name in own.dimensions)


@given(sweep=sweeps())
@MANY
def test_a_field_stands_behind_those_that_it_depends_on(sweep: Sweep) -> None:
    order = list(Space.of(sweep.space, ARMS).dimensions)
    assert sorted(order) == sorted([ARM, *NAMES])
    assert all(order.index(other) < order.index(name) for name in NAMES for other in sweep.space[name].when)


@given(body=dimensions())
@MANY
def test_listed_values_are_held_differ_and_the_ends_are_the_first_and_the_last(body: dict[str, Any]) -> None:
    dimension = Dimension.model_validate({key: value for key, value in body.items() if value is not None})
    values = list(listed(dimension))
    assert all(holds(dimension, value) for value in values) and len({*values}) == len(values)
    if dimension.choices is None:
        assert values == sorted(values) and extremes(dimension) == [values[0], values[-1]]  # type: ignore[type-var]
        step = dimension.step or 1
        assert not any(holds(dimension, v) for v in (values[0] - step, values[-1] + step, True, "1", None))
        assert json.dumps(values) == json.dumps([float(f"{v:.10g}") if isinstance(v, float) else v for v in values])
    else:
        assert extremes(dimension) == values == dimension.choices


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ({"a": [1, 2], "b": {"choices": [1], "when": {"a": []}}}, ("space", "b", "when", "a")),
        ({"a": {"low": 1, "high": 9, "step": 4}, "b": {"choices": [1], "when": {"a": 4}}}, ("space", "b", "when", "a")),
        ({"a": {"low": 0.1, "high": 0.9}, "b": {"choices": [1], "when": {"a": 2.0}}}, ("space", "b", "when", "a")),
        (
            {"a": [1, 2], "b": {"choices": [1], "when": {"a": 1}}, "c": {"choices": [1], "when": {"b": 1, "a": 2}}},
            ("space", "c", "when", "a"),
        ),
        (
            {"a": [1, 2], "b": {"choices": [1], "when": {"a": 1}}, "c": {"choices": [1], "when": {"a": 2}},
             "d": {"choices": [1], "when": {"b": 1, "c": 1}}},
            ("space", "d", "when"),
        ),
    ],
)  # fmt: skip
def test_a_condition_that_is_never_met_is_an_error_of_its_field(space: dict[str, Any], told: tuple[str, ...]) -> None:
    body = {"name": "s", "experiment": {"file": "x", "arms": ARMS}, "space": space, "budget": {"trials": 3}}
    with pytest.raises(ValidationError) as caught:
        Sweep.model_validate(body)
    (problem,) = caught.value.errors()
    assert problem["ctx"]["error"].path == told and "never" in problem["msg"]


def test_a_whole_number_of_a_range_may_be_written_as_any_number() -> None:
    space = {"a": {"low": 1, "high": 9}, "b": {"choices": [1], "when": {"a": 8.0}}}
    body = {"name": "s", "experiment": {"file": "x", "arms": ARMS}, "space": space, "sampler": "grid"}
    sweep = Sweep.model_validate(body)
    assert Space.of(sweep.space, ["one"]).active("b", {"a": 8})
