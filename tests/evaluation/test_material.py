"""Everything that is wrong with what runs would read is said at once, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.data import records
from tests.evaluation.test_benchmarks import lines, vqa
from vlm_ablate.cli.app import app
from vlm_ablate.config.experiment import RunConfig
from vlm_ablate.evaluation import material
from vlm_ablate.evaluation.material import look_over
from vlm_ablate.registry import sources

pytestmark = pytest.mark.usefixtures("own_cache")

STAGE = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3, "connector": "full", "vision": "frozen",
         "language": "frozen"}  # fmt: skip
MODEL = {"vision": {"name": "siglip-nano"}, "language": {"name": "llama-nano", "quality": "good"},
         "connector": {"name": "linear"}, "architecture": "autoregressive"}  # fmt: skip


def a_config(mixture: dict[str, Any], benchmarks: dict[str, Any], **evaluation: Any) -> RunConfig:
    mixture = {name: {"source": source} for name, source in mixture.items()}
    columns = {name: entry if "benchmark" in entry else {"benchmark": entry} for name, entry in benchmarks.items()}
    stage = STAGE | {"data": {"mixture": mixture}}
    body = {"model": MODEL, "stages": {"s": stage}, "evaluation": {"benchmarks": columns, "shots": 0} | evaluation}
    return RunConfig.model_validate(body)


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Any]:
    """A source that can be read."""
    return {"name": "pairs", "id": str(records.write(records.PAIRS, "jsonl", tmp_path / "pairs"))}


@pytest.fixture
def vqav2(tmp_path: Path) -> dict[str, Any]:
    """A benchmark with a scored split and no other."""
    return {"name": "vqav2", "id": str(lines(tmp_path / "vqa", "validation", vqa(0)))}


def test_material_that_is_there_is_no_problem(pairs: dict, vqav2: dict) -> None:
    found = look_over({"a": a_config({"p": pairs}, {"q": vqav2})})
    assert found.error() is None and found.warnings() == []


def test_everything_is_said_at_once_with_the_arms_that_it_stops(pairs: dict, vqav2: dict, tmp_path: Path) -> None:
    nowhere = {"name": "cauldron", "id": str(tmp_path / "nowhere")}
    columns = {"name": "cauldron", "id": pairs["id"]}
    (tmp_path / "empty.jsonl").touch()
    empty = {"name": "pairs", "id": str(tmp_path / "empty.jsonl")}
    no_split = {"name": "chartqa", "id": vqav2["id"]}
    arms = {
        "a": a_config({"p": pairs, "n": nowhere}, {"q": vqav2, "c": no_split}),
        "b": a_config({"p": columns, "n": nowhere, "e": empty}, {"q": vqav2, "c": no_split}),
    }
    error = look_over(arms).error()
    assert error is not None
    told = error.message.split("\n")
    for start, part in (
        ("all arms: ", "nowhere' does not exist"),
        ("b: ", "column 'images', 'texts' is missing; found: image, text, top_caption"),
        ("b: ", "empty.jsonl' is empty"),
        ("all arms: ", "has no split 'test'; found: 0.png, validation.jsonl"),
    ):
        assert [line for line in told if line.startswith(start) and part in line], (start, part)
    assert len(told) == 4 and "`splits:" in (error.hint or "")


def test_demonstrations_and_curves_need_their_splits(pairs: dict, vqav2: dict) -> None:
    def told(**evaluation: Any) -> str:
        error = look_over({"a": a_config({"p": pairs}, {"q": vqav2}, **evaluation)}).error()
        return error.message if error else ""

    assert "has no split 'train'" in told(shots=4)
    assert "has no split 'train'" in told(curve={"points": 1}), "its tune split is cut off train"
    star = vqav2 | {"name": "mmstar"}
    error = look_over({"a": a_config({"p": pairs}, {"m": star}, shots=4)}).error()
    assert error is not None and "has no 'train' split" in error.message and "score it with shots: 0" in str(error.hint)


def test_a_ceiling_needs_pictures_that_are_known_in_words(pairs: dict, vqav2: dict) -> None:
    error = look_over({"told": a_config({"p": pairs}, {"q": vqav2}, ceiling=True)}).error()
    assert error is not None and "no description of its pictures" in error.message
    assert "evaluation.ceiling=false" in str(error.hint)


def test_equal_material_is_opened_once(pairs: dict, vqav2: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    for registry in (material.sources, material.benchmarks):
        build = registry.build
        monkeypatch.setattr(registry, "build", lambda c, build=build: built.append(c.name) or build(c))
    look_over({name: a_config({"p": pairs, "same": pairs}, {"q": vqav2, "again": vqav2}) for name in "abc"})
    assert built == ["pairs", "vqav2"]


def test_what_is_not_on_this_machine_is_told_once_and_is_no_problem(pairs: dict, vqav2: dict) -> None:
    away = {"name": "cauldron", "id": "someone/nothing-like-this"}
    arms = {"a": a_config({"p": pairs}, {"q": vqav2}), "b": a_config({"p": away}, {"q": vqav2}),
            "c": a_config({"p": away}, {"q": vqav2})}  # fmt: skip
    found = look_over(arms)
    (warning,) = found.warnings()
    assert found.error() is None and warning.count("someone/nothing-like-this") == 1
    assert "(b, c); the arms that need it are skipped (" in warning


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"prompt": "chat"}, "prompt"), ({"shots": 0}, "shots"), ({"demonstrations": {"seed": 1}}, "demonstration seed"),
     ({"demonstrations": {"selection": "fixed"}}, "demonstrations")],
)
def test_scores_that_no_table_compares_are_told_before(changes: dict, what: str, pairs: dict, vqav2: dict) -> None:
    lines(Path(vqav2["id"]), "train", *map(vqa, range(30)))
    arms = {"a": a_config({"p": pairs}, {"q": vqav2}, shots=1), "b": a_config({"p": pairs}, {"q": vqav2, "r": vqav2},
                                                                              **{"shots": 1} | changes)}  # fmt: skip
    error = look_over(arms).error()
    assert error is not None
    assert error.message.startswith(f"all arms: column 'q' would hold scores that no table compares: {what} ")
    assert "column 'r'" not in error.message, "only one arm has it"


def test_a_source_without_a_row_is_named() -> None:
    class Empty:
        def __len__(self) -> int:
            return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "build", lambda config: Empty())
        error = look_over({"a": a_config({"p": {"name": "pairs", "id": "x"}}, {"q": {"name": "offline_vqa"}})}).error()
    assert error is not None and error.message == "a: source 'pairs' has no row"


@pytest.mark.parametrize("command", ["plan", "run"])
def test_commands_say_it_all_before_anything_is_trained(command: str, vqav2: dict, tmp_path: Path) -> None:
    sources_ = {name: {"source": {"name": "cauldron", "id": str(tmp_path / name)}} for name in ("one", "two")}
    body = {
        "name": "mine/gone", "title": "Gone", "question": "Where?", "factor": ["data"], "model": MODEL,
        "data": {"mixture": {"one": sources_["one"]}, "image": {"size": 64}},
        "stages": {"s": STAGE}, "evaluation": {"shots": 4, "benchmarks": {"q": {"benchmark": vqav2}}},
        "arms": {"a": {}, "b": {"set": {"data.mixture": {"two": sources_["two"]}}}},
    }  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(body))
    home = tmp_path / "home"
    options = ["--home", str(home)] if command == "run" else []
    result = CliRunner().invoke(app, [command, str(file), "--scale", "paper", *options])
    assert result.exit_code == 1
    told = " ".join((result.stdout + result.stderr).split())
    for part in ("one' does not exist", "two' does not exist", "all arms: ", "has no split 'train'"):
        assert part in told, told
    assert not list(home.glob("runs/*")), "nothing was begun"
