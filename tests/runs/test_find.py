"""A run is found by any part of its name that tells it from the others, and what tells it is what messages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.disk import write_log, write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.runs.find import find_asked, find_run
from vlm_ablate.runs.fingerprints import agree, differences
from vlm_ablate.runs.names import RunNotUsable, full_name
from vlm_ablate.runs.spec import RunSpec


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare(0)


@pytest.fixture
def runs(home: Home) -> list[RunSpec]:
    """One arm and seed under two settings in one experiment, and in another; and another seed."""
    specs = [
        make_spec(note="first"),
        make_spec(note="second"),
        make_spec(note="third", experiment="other/t02"),
        make_spec(seed=1, note="first"),
    ]
    for spec in specs:
        write_results(spec, home)
    return specs


def test_words_are_enough_where_they_fit_one_run(runs: list[RunSpec], home: Home) -> None:
    for name in ("other/t02 mlp", "t02 mlp seed 0", "other/t02 mlp seed 0 laptop"):
        assert find_asked(name, home) == runs[2]
    assert find_asked("mlp seed 1", home) == find_asked("mlp · seed 1 · laptop", home) == runs[3]


def test_what_the_error_shows_of_a_run_names_it(runs: list[RunSpec], home: Home) -> None:
    with pytest.raises(RunNotUsable, match="'mlp seed 0' names 3 runs") as caught:
        find_asked("mlp seed 0", home)
    shown = caught.value.message.partition("runs: ")[2].split("; ")
    assert {find_asked(name, home).id for name in shown} == {spec.id for spec in runs[:3]}
    assert {find_asked(name.split()[-1], home).id for name in shown} == {spec.id for spec in runs[:3]}
    assert sorted(shown) == sorted(f"{full_name(spec.to_dict())} {spec.id[:8]}" for spec in runs[:3])


@pytest.mark.parametrize("form", ["mlp seed 0 {}", "mlp {}", "mlp · seed 0 · laptop ({})", "demo/t01 mlp seed 0 [{}]"])
def test_a_key_behind_the_name_tells_runs_with_equal_names_apart(
    form: str, runs: list[RunSpec], home: Home
) -> None:
    for spec in runs[:2]:
        for key in (spec.id, spec.id[:6], spec.stage_keys[-1].key):
            assert find_asked(form.format(key), home) == spec


def test_a_key_of_another_run_than_the_words_finds_nothing(runs: list[RunSpec], home: Home) -> None:
    with pytest.raises(UnknownNameError, match="unknown run"):
        find_asked(f"mlp seed 1 {runs[0].id}", home)


def test_an_arm_whose_name_looks_like_a_key_is_not_taken_for_one(home: Home) -> None:
    arm = make_spec(note="named")
    hexed = make_spec(arm.id[:4], note="hexed")
    for spec in (arm, hexed):
        write_results(spec, home)
    with pytest.raises(RunNotUsable, match="names 2 runs"):
        find_asked(arm.id[:4], home)
    assert find_asked(f"{hexed.arm} seed 0", home) == hexed


def test_runs_that_are_the_same_weights_count_as_one(home: Home) -> None:
    same = [make_spec(note="same"), make_spec(note="same", experiment="other/t02")]
    for spec in same:
        write_results(spec, home)
    assert find_asked("mlp seed 0", home) in same


def test_a_run_whose_files_have_changed_is_not_said_to_go_on(home: Home, tmp_path: Path) -> None:
    body = make_spec().to_dict()
    data = tmp_path / "data"
    body["config"]["stages"]["train"]["data"]["mixture"] = {"pairs": {"source": {"name": "pairs", "id": str(data)}}}
    spec = RunSpec.from_dict(body)
    data.mkdir()
    (data / "train.jsonl").write_text("old")
    stage = write_results(spec, home).stages[-1]
    stage.weights.write_bytes(b"")
    assert find_run("mlp seed 0", home).spec == spec
    (data / "train.jsonl").write_text("new")
    with pytest.raises(RunNotUsable, match="was made of other files than are here now: data train"):
        find_run("mlp seed 0", home)
    write_log(spec, home, [])  # trained anew, so far
    with pytest.raises(RunNotUsable, match="has not ended yet"):
        find_run("mlp seed 0", home)


def test_a_run_that_was_trained_again_from_other_files_is_another_start(home: Home, tmp_path: Path) -> None:
    body = make_spec().to_dict()
    data = tmp_path / "data"
    body["config"]["stages"]["train"]["data"]["mixture"] = {"pairs": {"source": {"name": "pairs", "id": str(data)}}}
    first, later = RunSpec.from_dict(body), make_spec("later").to_dict()
    later["config"]["model"]["init_from"] = "run:mlp seed 0"
    data.mkdir()
    (key,) = RunSpec.from_dict(later).stage_keys
    told = [key.fingerprints(home)]
    for files, weights in (("old", b"1"), ("new", b"22")):
        (data / "train.jsonl").write_text(files)
        write_results(first, home, weights_sha256=weights.hex()).stages[-1].weights.write_bytes(weights)
        told.append(key.fingerprints(home))
    assert agree(told[0], told[1]), "no such run yet"
    assert differences(told[1], told[2]) == ["init_from"]
