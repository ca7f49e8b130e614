"""Whatever is nearly right is answered with what is meant: parts, arms, scales, files, commands and their options."""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.command import call, told
from tests.safety.test_generated_input import commands
from vlm_ablate.cli.app import app
from vlm_ablate.cli.list_ import KINDS
from vlm_ablate.config.compose import load_document
from vlm_ablate.config.expand import experiment_files
from vlm_ablate.config.scales import scale_files
from vlm_ablate.config.shipped import experiment_name
from vlm_ablate.errors import nearest
from vlm_ablate.papers import table_keys
from vlm_ablate.registry import REGISTRIES

pytestmark = pytest.mark.usefixtures("in_repository")
ROOT = Path(__file__).parents[2]
T03 = "idefics2/t03_architecture"
NAMES = st.lists(st.text("abcdefg_0123-", min_size=1, max_size=12), max_size=8, unique_by=str.lower)


def mistyped(name: str) -> Iterator[str]:
    """The name with a letter left out, doubled, swapped with the next or put for another."""
    at = random.Random(name).randrange(1, len(name) - 1)
    yield name[:at] + name[at + 1 :]
    yield name[:at] + name[at] + name[at:]
    yield name[:at] + name[at + 1] + name[at] + name[at + 2 :]
    yield name[:at] + "q" + name[at + 1 :]


def sets_of_names() -> dict[str, list[str]]:
    """Everything that has names, under what it is called in messages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        files = experiment_files()
        arms = {f"arm of {file.stem}": [*load_document(file).data["arms"]] for file in files}
        return {
            **{registry.kind: registry.names() for registry in REGISTRIES},
            **{kind: names for kind, names in arms.items() if len(names) > 1},
            "experiment": [experiment_name(file) for file in files],
            "scale": [*scale_files(ROOT / "experiments")],
            "paper's table": table_keys(),
            "kind of part": [*KINDS],
        }


def test_of_all_names_that_there_are_the_one_that_is_meant_is_found() -> None:
    for kind, known in sets_of_names().items():
        for name in known:
            for wrong in mistyped(name) if len(name) > 3 else ():
                found = nearest(wrong, known)
                assert found in known, (kind, wrong)
                near = {each: _alike(each, wrong) for each in known}
                assert near[found] == max(near.values()), f"{kind}: {wrong!r} is nearer to another than to {found!r}"
            assert nearest(name.upper(), known) == name, "case does not count"


def _alike(known: str, wrong: str) -> float:
    return difflib.SequenceMatcher(None, known.lower(), wrong.lower()).ratio()


@settings(max_examples=40, deadline=None)
@given(known=NAMES, wrong=st.text("abcdefg_0123-", max_size=12))
def test_what_is_suggested_exists_and_does_not_depend_on_the_order(known: list[str], wrong: str) -> None:
    found = nearest(wrong, known)
    assert found is None or found in known
    assert (found is None) == (max((_alike(each, wrong) for each in known), default=0.0) < 0.5)
    others = nearest(wrong, known[::-1])
    assert (found is None) == (others is None)
    assert found is None or others is None or _alike(found, wrong) == _alike(others, wrong)
    assert all(nearest(name, known) == name for name in known), "a name is nearest to itself"


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_a_mistyped_command_is_answered_with_the_one_that_is_meant(name: str) -> None:
    *group, last = name.split()
    wrong = next(word for each in mistyped(f"{last} ") if (word := each.strip()) not in _below(group))
    result = call(*group, wrong, "x", "y")
    assert result.exit_code == 2 and result.stdout == ""
    assert f"No such command '{wrong}'" in told(result) and f"'{last}'" in told(result), told(result)


def _below(group: list[str]) -> set[str]:
    found: Any = typer.main.get_command(app)
    for word in group:
        found = found.commands[word]
    return set(found.commands)


def test_a_sweep_whose_name_is_nearly_a_command_is_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "shows").write_text("name: shows\n")
    assert "No such command 'shoow'" in told(call("sweep", "shoow"))
    assert "No such command" not in told(call("sweep", tmp_path / "shows"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = call("sweep", "shows")
    assert result.exit_code == 2 and "No such command" not in told(result) and "shows" in told(result)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("run", "idefics2/t03_architectur"), "experiments/idefics2/t03_architecture.yaml"),
        (("run", T03, "--arms", "ar_liner_frozen"), "ar_linear_frozen"),
        (("run", T03, "--launcher", "locla"), "local"),
        (("table", T03, "--scale", "latpop"), "laptop"),
        (("table", T03, "--format", "latx"), "latex"),
        (("table", T03, "--format", "mardown", "--out", "FOLDER"), "markdown"),
        (("table", T03, "--out", "FOLDER/table.htm"), "html"),
        (("score", "anlss", "FOLDER/x.jsonl"), "anls"),
        (("export", "x", "FOLDER", "--dtype", "bfloat61"), "bfloat16"),
        (("parity", "FOLDER", "--dtype", "flot32"), "float32"),
        (("data", "fetch", "stamp"), "stamps"),
        (("data", "build-docmatix", "FOLDER", "--out", "FOLDER/x", "--image-format", "jpg"), "jpeg"),
        (("evaluate", "x", "--benchmarks", "docvqq"), "docvqa"),
        (("evaluate", "x", "--split", "reprot"), "report"),
        (("evaluate", "x", "--precision", "bf61"), "bf16"),
        (("reproduce", "--papers", "idefisc3"), "idefics3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistyped_value_is_a_wrong_question_that_names_the_right_one(
    words: tuple[str, ...], meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path / "home"))
    result = call(*(word.replace("FOLDER", str(tmp_path)) for word in words))
    assert result.exit_code == 2 and f"did you mean '{meant}" in told(result), told(result)
    assert list(tmp_path.iterdir()) == [], "nothing was begun"
