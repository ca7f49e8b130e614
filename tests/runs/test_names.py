"""Names of runs over a whole home: words find what a search through all runs finds, with any but the arm left out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from vlm_ablate.errors import UnknownNameError
from vlm_ablate.home import Home
from vlm_ablate.runs.folder import RunFolder
from vlm_ablate.runs.keys import key_of
from vlm_ablate.runs.names import SHOWN, RunNotUsable, asked_for, full_name, named_run
from vlm_ablate.runs.once import looking_once

EXPERIMENTS, ARMS, SEEDS, SCALES = (
    ("a/t01", "a/t02", "b/t01"),
    ("mlp", "mlp_lora", "lora"),
    (0, 1, 10),
    ("laptop", "x2"),
)
Labels = tuple[str, str, int, str]


def body(labels: Labels, weights: str) -> dict[str, Any]:
    spec = dict(zip(("experiment", "arm", "seed", "scale"), labels, strict=True))
    return {"id": key_of(spec), "stages": ["0" * 12, weights], "status": "finished",
            "spec": spec | {"label": spec["arm"].upper()}}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, dict[Labels, dict[str, Any]]]:
    """All runs of three tables; two of them share the weights of an arm."""
    home = Home(tmp_path_factory.mktemp("home")).prepare(0)
    found = {}
    for number, labels in enumerate(itertools.product(EXPERIMENTS, ARMS, SEEDS, SCALES)):
        shared = labels[1] == "lora" and labels[0].startswith("a/")
        weights = key_of({"weights": [*labels[1:]] if shared else number})
        found[labels] = body(labels, weights)
        folder = RunFolder(home.runs / found[labels]["id"])
        folder.root.mkdir()
        folder.write(found[labels])
    return home, found


def forms(labels: Labels) -> list[str]:
    """Every way to name a run by words: any left out but the arm, in the ways in which words are written."""
    experiment, arm, seed, scale = labels
    firsts = (None, experiment, experiment.rpartition("/")[2])
    told = itertools.product(firsts, (None, f"seed {seed}", str(seed)), (None, scale))
    return [" ".join(word for word in (first, arm, second, third) if word) for first, second, third in told]


def fits(labels: Labels, name: str) -> bool:
    return name in forms(labels)


def test_words_find_the_runs_that_have_them_and_runs_of_the_same_weights_are_one(
    runs: tuple[Home, dict[Labels, dict[str, Any]]],
) -> None:
    home, known = runs
    names = dict.fromkeys(name for labels in known for name in forms(labels))
    with looking_once():
        for name in names:
            wanted = {b["stages"][-1]: b for labels, b in known.items() if fits(labels, name)}
            ids = {b["id"][:SHOWN]: b["stages"][-1] for labels, b in known.items() if fits(labels, name)}
            if len(wanted) == 1:
                assert named_run(name, home)["id"][:SHOWN] in ids, name
                continue
            with pytest.raises(RunNotUsable) as caught:
                named_run(name, home)
            shown = caught.value.message.partition("runs: ")[2].split("; ")
            assert f"names {len(wanted)} runs" in caught.value.message
            assert {ids[each.split()[-1]] for each in shown} == {*wanted}, name


def test_the_full_name_and_the_label_tell_the_run_and_every_beginning_of_an_id_or_key_a_run_that_has_it(
    runs: tuple[Home, dict[Labels, dict[str, Any]]],
) -> None:
    home, known = runs
    with looking_once():
        for labels, told in known.items():
            assert named_run(full_name(told["spec"]), home)["stages"] == told["stages"]
            for key, length in itertools.product((told["id"], told["stages"][-1]), (4, 12)):
                try:
                    found = named_run(key[:length], home)
                except RunNotUsable:
                    assert length == 4
                    continue
                assert key[:length] in (found["id"][:length], found["stages"][-1][:length])
                assert named_run(f"{labels[1]} {key[:length]}", home) == found


@pytest.mark.parametrize("name", ["", " ", "mlp 2", "mpl", "t03 mlp", "laptop", "mlp 0 1", "0" * 12, "seed 0", "·"])
def test_a_name_that_fits_none_is_unknown(runs: tuple[Home, dict[Labels, dict[str, Any]]], name: str) -> None:
    """Nor does the key of a stage that is not the last, which runs of other arms may share."""
    with looking_once(), pytest.raises(UnknownNameError, match="unknown run"):
        named_run(name, runs[0])


def test_what_is_no_record_of_a_run_is_passed_by_and_the_others_are_found(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare(0)
    whole = body(("a/t01", "mlp", 0, "laptop"), "ab" * 6)
    damaged: list[Any] = [
        {name: value for name, value in whole.items() if name != left} for left in ("id", "stages", "spec")
    ]
    damaged += [whole | {"stages": []}, whole | {"stages": [3]}, whole | {"id": 3}, whole | {"spec": []}]
    damaged += [whole | {"spec": whole["spec"] | {name: None}} for name in whole["spec"]]
    for number, each in enumerate([*damaged, whole]):
        folder = RunFolder(home.runs / f"{number:012x}")
        folder.root.mkdir()
        folder.write(each)
    (home.runs / "torn").mkdir()
    (home.runs / "torn" / "run.json").write_text('{"id": "x"')
    (home.runs / "file").write_text("")
    assert [found for _, found in asked_for(home)] == [{"format": 2, **whole}]
    assert named_run("mlp", home)["id"] == whole["id"]
