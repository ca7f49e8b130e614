"""`explain`: what it says is there is there, and what it says differs is all that differs."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest

from tests.command import call
from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.cli.explain import MOST
from vlm_ablate.home import Home
from vlm_ablate.runs.explain import explain
from vlm_ablate.runs.folder import write_json
from vlm_ablate.runs.results import find_results
from vlm_ablate.runs.spec import RunSpec

CHANGES: dict[str, Any] = {"steps": 20, "batch_size": 8, "learning_rate": 0.5, "warmup_steps": 3, "weight_decay": 0.25}
TWO = {"first": {"steps": 10, "batch_size": 4}, "second": {"steps": 5, "batch_size": 4}}


def spec(seed: int = 0, note: str = "one", **changes: Any) -> RunSpec:
    return make_spec("mlp", seed, note=note, stages={"train": {"steps": 10, "batch_size": 4, **changes}})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare(minimum_free=0)


def test_every_stage_and_score_is_told_as_it_is_on_disk(home: Home) -> None:
    runs = {
        "finished": write_results(spec(0), home),
        "diverged": write_results(spec(1), home, status="diverged"),
        "running": write_results(spec(2), home, status="running"),
        "failed": write_results(spec(3), home, status="failed"),
    }
    for status, results in runs.items():
        told = {item.what: item for item in explain(results.spec, home)}
        assert [item.key for item in told.values()] == [
            *(key.key for key in results.spec.stage_keys), *(key.key for key in results.spec.score_keys)
        ]  # fmt: skip
        assert told["stage train"].state == {"finished": "finished", "diverged": "diverged"}.get(status, "begun")
        scored = {key.key for key, _ in results.scores}
        for key in results.spec.score_keys:
            (item,) = (item for item in told.values() if item.key == key.key)
            assert item.state == ("finished" if key.key in scored else "missing"), status
        assert (status == "finished") == all(item.state == "finished" for item in told.values())


def test_the_stages_that_two_runs_share_are_told_as_there(home: Home) -> None:
    done = make_spec("mlp", stages=TWO, note="one")
    other = make_spec("mlp", stages=TWO | {"second": {"steps": 6, "batch_size": 4}}, note="one")
    write_results(done, home)
    first, second, *scores = explain(other, home)
    assert first.state == "finished" and first.folder == explain(done, home)[0].folder
    assert second.state == "missing" and [field for field, *_ in second.differing] == ["stages[1].steps"]
    assert second.differing[0][1:] == (6, 5), "here, there"
    assert {item.state for item in scores} == {"missing"} and {item.nearest for item in scores} == {None}


def test_the_nearest_result_is_the_one_that_differs_least_and_its_differences_are_all(home: Home) -> None:
    draw = random.Random(0)
    there: dict[str, dict[str, Any]] = {}
    for _ in range(6):
        changed = dict(draw.sample(sorted(CHANGES.items()), draw.randint(2, len(CHANGES))))
        results = write_results(spec(**changed), home)
        there[results.stages[-1].root.name] = changed
    for number in range(12):
        asked = dict(draw.sample(sorted(CHANGES.items()), draw.randint(0, 1))) | ({"steps": 7} if number % 2 else {})
        stage = explain(spec(**asked), home)[0]
        assert stage.state == "missing" and stage.nearest in there
        unlike = {
            folder: {name for name in {*asked, *changed} if asked.get(name) != changed.get(name)}
            for folder, changed in there.items()
        }
        assert {field.rpartition(".")[2] for field, *_ in stage.differing} == unlike[stage.nearest]
        assert len(stage.differing) == min(map(len, unlike.values()))


def test_what_only_the_other_has_is_told_too(home: Home) -> None:
    results = write_results(spec(), home)
    manifest = results.stages[-1].manifest() or {}
    write_json(results.stages[-1].root / "stage.json", {**manifest, "inputs": {**manifest["inputs"], "more": {"x": 1}}})
    stage = explain(spec(steps=11), home)[0]
    assert {field: values for field, *values in stage.differing} == {"stages[0].steps": [11, 10], "more.x": [None, 1]}


def test_a_run_is_explained_alike_under_each_of_its_names(home: Home) -> None:
    for seed in (0, 1):
        write_results(spec(seed), home, status="finished" if seed else "diverged")
    for seed in (0, 1):
        id = spec(seed).id
        names = [f"mlp seed {seed}", f"demo/t01 mlp seed {seed} laptop", f"t01 mlp {seed}", id, id[:8],
                 f"mlp seed {seed} {id[:6]}", str(home.runs / id)]  # fmt: skip
        said = {name: call("explain", name, "--home", home.root) for name in names}
        assert {result.exit_code for result in said.values()} == {0}, said
        assert len({result.stdout for result in said.values()}) == 1
        text = said[id].stdout
        assert text.startswith(f"demo/t01  {spec(seed).run_name}  (run {id})\n")
        states = [re.split(r"\s{2,}", line.strip())[1].split()[0] for line in text.splitlines()[1:]]
        assert states == [item.state for item in explain(find_results(spec(seed), home).spec, home)]


def test_long_lists_of_differences_end_with_how_many_more_there_are(home: Home) -> None:
    write_results(spec(note="another"), home)
    stages = {"train": {"steps": 11, "batch_size": 5, "learning_rate": 0.25, "warmup_steps": 1, "language": "lora",
                        "lora": {"r": 5, "alpha": 3}, "vision": "lora", "weight_decay": 0.125}}  # fmt: skip
    asked = make_spec("mlp", 3, note="one", stages=stages)
    write_results(asked, home, status="running")
    stage = explain(asked, home)[0]
    text = call("explain", asked.id, "--home", home.root).stdout
    shown = re.findall(r"^        (\S+): .* here, .* there$", text, re.MULTILINE)
    more = re.findall(r"^        and (\d+) more$", text, re.MULTILINE)
    assert shown == [field for field, *_ in stage.differing[:MOST]]
    assert len(stage.differing) == len(shown) + sum(map(int, more)) and bool(more) == (len(stage.differing) > MOST)
    assert f"it differs in {len(stage.differing)} places:" in text
