"""Every field that a file may write: known by its path, told when misspelled or of another type, in the schema."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from vlm_ablate.config.compose import flatten
from vlm_ablate.config.document import Path_, read_document
from vlm_ablate.config.expand import EVALUATIONS, experiment_files, load_experiment
from vlm_ablate.config.json_schema import file_schema
from vlm_ablate.config.places import is_component, unknown_key
from vlm_ablate.config.problems import problems_of
from vlm_ablate.config.run_config import RunConfig
from vlm_ablate.errors import Problem
from vlm_ablate.registry import REGISTRIES, launchers

ROOT = Path(__file__).parents[2] / "experiments"
EDITOR = {kind: Draft202012Validator(file_schema(kind)) for kind in ("experiment", "scale")}  # type: ignore[arg-type]
WRITTEN = [f for f in [*ROOT.rglob("*.yaml"), *EVALUATIONS.glob("*.yaml")] if f.parent.name != "sweeps"]
NAMES = ("stages", "mixture", "benchmarks", "climb")
"""Fields whose keys are names that a file gives."""
ENTRIES = [(registry, entry) for registry in REGISTRIES if registry is not launchers for entry in registry]


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """Plain data of a run that has every section, all its fields written."""
    config = load_experiment(ROOT / "idefics2" / "t03_architecture.yaml", scale="laptop").base
    plain = config.model_dump(mode="json")
    plain["execution"]["stages"] = {name: {"features": "off"} for name in plain["stages"]}
    plain["evaluation"]["curve"] = {"points": 2, "limit": 3, "benchmarks": []}
    plain["model"]["init_from"] = {"connector": "run:a"}
    RunConfig.model_validate(plain)
    return plain


def problems(data: Any) -> list[Problem]:
    try:
        RunConfig.model_validate(data)
    except ValidationError as error:
        return problems_of(error, RunConfig, data, lambda path: ("x.yaml", path))
    return []


def put(data: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(data)
    holder = result
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return result


def misspelled(word: str, draw: random.Random) -> str:
    """Two letters exchanged, or one left out."""
    at = draw.randrange(1, len(word) - 1)
    return draw.choice([word[:at] + word[at + 1 :], word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :]])


def fields_of(data: dict[str, Any]) -> Iterator[tuple[Path_, int]]:
    """(path of a value, place in it) of every key that is a field and no name that a file gives."""
    for path in flatten(data):
        for at, key in enumerate(path):
            if len(key) > 4 and not (at and path[at - 1] in NAMES):
                yield path, at


def test_the_path_of_every_value_is_known_and_no_misspelled_one(whole: dict[str, Any]) -> None:
    draw, parts = random.Random(2), 0
    for path in flatten(whole):
        before = ("", *path)
        starred = tuple("*" if before[at] in NAMES else key for at, key in enumerate(path))
        assert unknown_key(path) is None and unknown_key(starred) is None, path
    for path, at in fields_of(whole):
        wrong = misspelled(path[at], draw)
        unknown = unknown_key((*path[:at], wrong, *path[at + 1 :]))
        if wrong == path[at]:
            continue
        if unknown is None:  # a plug-in's part may have it
            assert any(is_component(path[:end]) for end in range(1, at + 1)), path
            parts += 1
            continue
        assert unknown.at == at and {path[at], unknown.nearest} <= {*unknown.known}
    assert parts < 5, "a slip of the pen is one in a part, too"


def test_a_misspelled_field_is_one_problem_with_the_nearest_that_there_is(whole: dict[str, Any]) -> None:
    draw = random.Random(4)
    places = sorted({(path[: at + 1], len(path) == at + 1) for path, at in fields_of(whole)})
    for path, _ in draw.sample(places, 60):
        holder = whole
        for key in path[:-1]:
            holder = holder[key]
        wrong = misspelled(path[-1], draw)
        if wrong in holder:
            continue
        broken = put(whole, (*path[:-1], wrong), holder[path[-1]])
        (problem,) = problems(broken)
        assert problem.path == ".".join((*path[:-1], wrong))
        assert problem.message.startswith(("unknown key", "must be one of"))
        assert problem.nearest is not None


def test_a_value_of_another_type_is_told_at_its_field_and_nowhere_else(whole: dict[str, Any]) -> None:
    for path in flatten(whole):
        if path[-1] == "name":
            continue
        for junk in ([["junk"]], 0.5j):
            found = problems(put(whole, path, junk))
            assert {re.sub(r"\[\d+\]", "", problem.path) for problem in found} == {".".join(path)}, (path, found)
            assert found[0].message.startswith(("must be ", "a folder, a hub id")), found


@pytest.mark.parametrize(("registry", "entry"), ENTRIES, ids=lambda value: getattr(value, "name", ""))
def test_every_registered_part_refuses_what_it_has_no_field_for(registry: Any, entry: Any) -> None:
    fields = entry.config.model_fields
    needed = {name: "x" for name, field in fields.items() if field.is_required()} | {"name": entry.name}
    part = entry.config.model_validate(needed)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        entry.config.model_validate(needed | {"no_field": 1})
    with pytest.raises(ValidationError, match="frozen"):
        part.name = "other"
    for name, field in fields.items():
        if field.annotation in (int, float):
            with pytest.raises(ValidationError, match=name):
                entry.config.model_validate(needed | {name: True})
            with pytest.raises(ValidationError, match=name):
                entry.config.model_validate(needed | {name: "1"})
    assert entry.config.model_validate(part.model_dump(mode="json")) == part


def kind_of(file: Path) -> str:
    return "scale" if file.parent.name == "scales" else "experiment"


def flaws(file: Path, data: Any) -> list[str]:
    return [error.message for error in EDITOR[kind_of(file)].iter_errors(data)]


@pytest.mark.parametrize("file", WRITTEN, ids=lambda f: f.stem)
def test_an_editor_marks_nothing_in_a_shipped_file_and_every_misspelled_key(file: Path) -> None:
    """Fragments and files over a base among them: what is merged may lack all that stands beneath it."""
    data = json.loads(json.dumps(read_document(file).data))
    assert flaws(file, data) == []
    for key in data:
        broken = {f"{key}_": data[key], **{other: data[other] for other in data if other != key}}
        assert any(f"'{key}_' was unexpected" in flaw for flaw in flaws(file, broken))
    for section in ("evaluation", "table", "execution"):
        if isinstance(data.get(section), dict):
            assert flaws(file, {**data, section: {**data[section], "no_field": 1}})
    for name, stage in (data.get("stages") or {}).items():
        if isinstance(stage, dict):
            assert flaws(file, {**data, "stages": {name: {**stage, "steps": "many"}}})
            assert flaws(file, {**data, "stages": {name: {**stage, "step": 1}}})


def test_all_experiments_and_scales_are_looked_at() -> None:
    assert {*experiment_files(ROOT), *(ROOT / "scales").glob("*.yaml")} <= {*WRITTEN}
