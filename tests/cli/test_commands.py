"""The commands as a person calls them: exit codes, messages, and what they print."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import typer

from tests.command import call
from vlm_ablate.cli.app import app
from vlm_ablate.cli.console import print_runs, seed_list
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.hub import ALLOW_HUB

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("in_repository")
T03 = "experiments/idefics2/t03_architecture.yaml"


def test_help_names_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    commands = typer.main.get_command(app).commands
    assert {"run", "table", "report", "data"} < set(commands)
    for command in commands:
        assert re.search(rf"^\W+{command} +[A-Z]", result.stdout, re.MULTILINE), command


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("vision", ["siglip-nano", "efficientnet-lite0", "ppocr-v4", "vit-s14", "layer=10", "weights=pretrained"]),
        ("language", ["llama-nano", "quality=good"]),
        ("connectors", ["perceiver", "latents=64", "[projected patches, learned queries]"]),
        ("architectures", ["cross_attention", "every=4"]),
        ("sources", ["obelics", "offline"]),
        ("tasks", ["knowledge", "maps", "documents"]),
        ("benchmarks", ["offline_vqa", "vqav2"]),
        ("metrics", ["vqa_accuracy", "cider"]),
        ("experiments", ["idefics2/t03_architecture", "6 arms"]),
        ("scales", ["laptop", "workstation", "paper"]),
        ("papers", ["idefics2_t03", "5 rows"]),
    ],
)
def test_list_shows_what_exists_with_its_parameters(kind: str, expected: list[str]) -> None:
    result = call("list", kind)
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for part in expected:
        assert part in text


def test_list_goes_on_after_a_scale_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments" / "scales").mkdir(parents=True)
    (tmp_path / "experiments" / "scales" / "mine.yaml").write_text("summray: small\n")
    monkeypatch.chdir(tmp_path)
    result = call("list", "scales")
    assert result.exit_code == 0 and "summray: unknown key (did you mean 'summary'?)" in result.stdout
    assert "laptop" in result.stdout and "paper" in result.stdout


def test_list_of_an_unknown_kind() -> None:
    result = call("list", "conectors")
    assert result.exit_code == 2
    assert "unknown kind of part 'conectors'" in result.stderr and "did you mean 'connectors'" in result.stderr


def test_validate_all_shipped_files() -> None:
    files = [str(f) for f in Path("experiments").rglob("*.yaml")]
    result = call("validate", *files)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("ok ") == len(files)
    assert result.stderr == ""


def test_validate_shows_the_problems_of_all_files_on_stderr(tmp_path: Path) -> None:
    good = (ROOT / T03).read_text()
    base = f"base: {ROOT / 'experiments/idefics2/_base.yaml'}"
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(good.replace("base: _base.yaml", base).replace("question:", "qestion:"))
    two.write_text(good.replace("base: _base.yaml", base).replace("worse: ar_linear_frozen", "worse: ar_linear"))
    result = call("validate", str(one), T03, str(two))
    assert result.exit_code == 2
    assert "2 problems found" in result.stderr
    assert "qestion" in result.stderr and "did you mean 'question'" in result.stderr
    assert "no arm 'ar_linear'" in result.stderr and "did you mean 'ar_linear_frozen'" in result.stderr
    assert "Traceback" not in result.output
    assert f"ok {T03}" in result.stdout, "the file without a mistake is still checked"


@pytest.mark.parametrize(
    ("before", "arguments", "after"),
    [
        ({}, ("list", "scales"), {"HF_HUB_OFFLINE": "On"}),
        ({}, ("--allow-hub", "list", "scales"), {ALLOW_HUB: "1"}),
        ({}, ("run", "no_such_file", "--allow-hub"), {ALLOW_HUB: "1"}),
        ({ALLOW_HUB: "1"}, ("list", "scales"), {ALLOW_HUB: "1"}),
    ],
)
def test_the_hub_is_reached_only_when_asked_for(
    before: dict[str, str], arguments: tuple[str, ...], after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ALLOW_HUB, "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, before.get(name, ""))
        if name not in before:
            monkeypatch.delenv(name)
    call(*arguments)
    assert {name: os.environ[name] for name in (ALLOW_HUB, "HF_HUB_OFFLINE") if name in os.environ} == after


def test_debug_lets_the_error_through() -> None:
    result = call("--debug", "validate", "no_such_file.yaml")
    assert isinstance(result.exception, VlmAblateError)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("table", T03, "--home", "HOME"), 1, "nothing was run in"),
        (("table", T03, "--scale", "laptpo"), 2, "did you mean 'laptop'"),
        (("ui", "--home", "HOME"), 1, "no records yet"),
        (("run", T03, "--arms", "ar_linear"), 2, "did you mean 'ar_linear_frozen'"),
        (("run", T03, "--seeds", "0,x"), 2, "'x' is no seed"),
        (("run", T03, "--set", "stages.pretrain.stesp=3"), 2, "did you mean 'steps'"),
        (("run", "idefics2/t3_architecture"), 2, "unknown experiment file"),
        (("plan", T03, "--scale", "laptpo"), 2, "did you mean 'laptop'"),
        (("schema", "scales"), 2, "did you mean 'scale'"),
        (("evaluate", "some/model", "--name", "two\nlines"), 2, "--name 'two\\nlines' is no line of text"),
        (("explain", "arm seed 0", "--set", "a=1", "--home", "HOME"), 2, "--set: of experiment files only"),
    ],
)
def test_bad_arguments_give_one_message_and_a_code(
    arguments: tuple[str, ...], code: int, message: str, tmp_path: Path
) -> None:
    result = call(*(str(tmp_path / "none") if a == "HOME" else a for a in arguments))
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_run_into_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("run", T03, "--seeds", "0", "--home", str(tmp_path / "file" / "home"))
    assert result.exit_code == 1
    assert "a part of the path is a file" in " ".join(result.stderr.split())


def test_schema_is_json() -> None:
    assert "arms" in json.loads(call("schema").stdout)["properties"]
    assert "overrides" in json.loads(call("schema", "scale").stdout)["properties"]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [(None, None), ("0", [0]), ("0,1, 2", [0, 1, 2]), ("0-3,7", [0, 1, 2, 3, 7]), ("0..2", [0, 1, 2])],
)
def test_seed_list(text: str | None, seeds: list[int] | None) -> None:
    assert seed_list(text) == seeds


@pytest.mark.parametrize(
    ("seeds", "named", "rest"), [(1, 1, ""), (10, 10, ""), (11, 10, " and 1 more"), (170, 10, " and 160 more")]
)
def test_runs_are_named_by_their_keys_but_not_hundreds(
    capsys: pytest.CaptureFixture[str], seeds: int, named: int, rest: str
) -> None:
    print_runs(("plain", seed, f"{seed:012x}") for seed in range(seeds))
    said = capsys.readouterr().err.strip()
    assert said.count("seed ") == named and said.endswith(f"{named - 1:012x}"[:8] + rest)
