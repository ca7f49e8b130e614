"""Every field of a run says what it decides, and a dump of one kind holds nothing of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest

from vlm_ablate.config.base import ComponentOf, Marked, Strict, added
from vlm_ablate.config.decides import decision, dump
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.registry import REGISTRIES, launchers

Write = Callable[..., Path]


def models_of(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for inner in get_args(annotation):
        yield from models_of(inner)


def undecided(model: type[Strict], inherited: Any, path: str) -> Iterator[str]:
    """Fields below `model`, registered parts included, of which nothing says what they decide."""
    for name, field in model.model_fields.items():
        decides, here = decision(model, field, inherited), f"{path}.{name}"
        parts = [mark.registry for mark in field.metadata if isinstance(mark, ComponentOf)]
        below = [entry.config for registry in parts for entry in registry] or list(models_of(field.annotation))
        if decides is None and not below:
            yield here
        for kind in below:
            yield from undecided(kind, decides, f"{here}({kind.__name__})")


def test_every_field_of_a_run_says_what_it_decides() -> None:
    assert list(undecided(RunConfig, None, "run")) == []


def test_every_registry_stands_somewhere_in_a_run_but_where_runs_go() -> None:
    from vlm_ablate.config.places import component_places

    assert set(component_places().values()) == set(REGISTRIES) - {launchers}


def test_a_field_without_a_mark_is_found_and_refused() -> None:
    class Unmarked(Strict):
        size: int = 1

    assert list(undecided(Unmarked, None, "x")) == ["x.size"]
    with pytest.raises(ValueError, match="nothing says what 1 decides"):
        dump(Unmarked(), "training")


def test_a_mark_of_a_field_goes_before_that_of_its_class_and_a_part_takes_that_of_its_place() -> None:
    class Inner(Strict):
        side: int = 2

    class Outer(Strict, decides="training"):
        inner: Inner = Inner()
        shown: Annotated[int, Marked("execution")] = 3
        later: int = added(0)
        asked: Annotated[Inner, Marked("score")] = Inner()

    assert dump(Outer(), "training") == {"inner": {"side": 2}}
    assert dump(Outer(later=1), "training") == {"inner": {"side": 2}, "later": 1}
    assert dump(Outer(), "score") == {"asked": {"side": 2}}
    assert dump(Outer(), "execution") == {"shown": 3}


def test_the_three_dumps_share_nothing_and_together_are_the_run(write: Write) -> None:
    from vlm_ablate.config.compose import flatten

    config = load_experiment(write(), scale="tiny").base
    parts = {what: flatten(dump(config, what)) for what in ("training", "score", "execution")}
    whole = flatten(config.model_dump(mode="json"))
    assert sum(map(len, parts.values())) == len(whole)
    assert parts["training"] | parts["score"] | parts["execution"] == whole
    assert {path[0] for path in parts["training"]} == {"model", "stages"}
    assert {path[0] for path in parts["score"]} == {"evaluation"}
    assert {path[0] for path in parts["execution"]} == {"execution"}
