"""Commands that are printed to be copied: pasted into a shell they mean what was meant, whatever the names are like."""

from __future__ import annotations

import csv
import html
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cli.test_reproduce import folder  # noqa: F401 - the fixture
from tests.command import call
from tests.runs.disk import write_results
from tests.sweeps.toys import Oracle, sweep, write_sweep
from vlm_ablate.cli.app import app
from vlm_ablate.cli.console import arm_list
from vlm_ablate.cli.evaluate import _free
from vlm_ablate.cli.launchers import this_command
from vlm_ablate.cli.new_experiment import _arms, _scalar
from vlm_ablate.cli.run import table_command
from vlm_ablate.cli.sweep import sweep_command
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.config.loading import arms_text
from vlm_ablate.config.yaml_reader import parse
from vlm_ablate.home import Home
from vlm_ablate.runs.spec import specs_of

LINES = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(' ,"\'#:-\\$`*[]{}&!|>%@'), min_size=1,
                max_size=12)  # fmt: skip
NAMES = LINES.filter(lambda name: name == name.strip())
COMMANDS = typer.main.get_command(app)
WORDS = LINES.filter(lambda word: not word.startswith("-"))


def parsed(command: str) -> tuple[str, dict[str, Any]]:
    """(name, parameters) that a shell and the command line make of a printed command."""
    group: Any = COMMANDS
    rest = shlex.split(command)[1:]
    context = group.make_context("vlm-ablate", list(rest))
    name = ""
    while hasattr(group, "commands"):
        word, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(word, list(rest), parent=context)
        name = f"{name} {word}".strip()
    return name, context.params


def printed(text: str) -> list[str]:
    """The commands in a text or a page, one a line or in an element of its own."""
    return [html.unescape(found).strip() for found in re.findall(r"vlm-ablate [^<\n]+", text)]


@settings(max_examples=25, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=5))
def test_names_of_arms_come_back_from_the_option_that_takes_them(names: list[str]) -> None:
    assert arm_list(arms_text(names)) == names
    assert next(csv.reader(io.StringIO(arms_text(names)))) == names, "as any reader of CSV takes it"


@settings(max_examples=25, deadline=None)
@given(
    file=WORDS, scale=st.sampled_from(["laptop", "gpu"]), arms=st.none() | WORDS, sets=st.lists(WORDS, max_size=3),
    home=st.none() | WORDS,
)  # fmt: skip
def test_the_command_for_the_table_of_a_run_has_what_the_run_was_given(
    file: str, scale: str, arms: str | None, sets: list[str], home: str | None
) -> None:
    name, found = parsed(table_command(Path(file), scale, arms, sets, home, None))
    assert name == "table" and found["file"] == Path(file) and found["scale"] == scale
    assert (found["sets"] or []) == sets and found["home"] == home
    assert found["arms"] == (arms if sets else None), "without settings the experiment's whole table is shown"
    assert found["records"] is found["out"] is found["seeds"] is None


@settings(max_examples=25, deadline=None)
@given(name=LINES, taken=st.lists(LINES, max_size=3), times=st.integers(0, 3))
def test_a_row_gets_a_name_that_no_arm_has(name: str, taken: list[str], times: int) -> None:
    known = {*taken, *(name + " (evaluated)" * number for number in range(times))}
    found = _free(name, known)
    assert found not in known and found.startswith(name) and (found == name) == (name not in known)


@settings(max_examples=25, deadline=None)
@given(
    text=LINES | st.sampled_from(["2024", "1e3", "0o7", ".5", "-1", "yes", "null", "~", "true", "nan", ".inf", "1_0"])
)
def test_a_text_stays_a_text_in_a_file(text: str) -> None:
    file = io.StringIO(f"one: {_scalar(text)}    # a comment\ntwo: 2\n")
    assert yaml.safe_load(file) == {"one": text, "two": 2}
    assert parse(file.getvalue(), "file")[0] == {"one": text, "two": 2}


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.text("0123456789.e+-_ab[]", min_size=1, max_size=6), min_size=1, max_size=6))
def test_arms_of_an_experiment_to_begin_with_have_names_of_their_own(values: list[str]) -> None:
    names = _arms("model.connector.latents", values)
    assert len(set(names)) == len(names) == len(values) and all(re.fullmatch(r"latents_?\w*", name) for name in names)


def test_the_commands_of_a_report_say_what_was_run(folder: Path) -> None:  # noqa: F811
    file = folder / "experiments/idefics2/first.yaml"
    text = file.read_text().replace("one:", '"one, or $two":').replace("[three, one]", '[three, "one, or $two"]')
    (folder / "of mine").mkdir()
    file.unlink()
    file = folder / "of mine" / "a first.yaml"
    file.write_text(text)
    for spec in specs_of(load_experiment(file, scale="tiny"), seeds=[0, 4]):
        if spec.arm != "twelve":
            write_results(spec, Home(folder / "home"), score=50.0 + len(spec.arm) + spec.seed)
    where = ["--scale", "tiny", "--home", "home"]
    kept = call("table", file, *where, "--arms", 'three,"one, or $two"', "--seeds", "0,4", "--out", "results/x/table")
    assert kept.exit_code == 0, kept.output
    file.rename(folder / "results/x/a winner.yaml")
    assert call("report", "--home", "none", "--out", "out").exit_code == 0
    commands = printed((folder / "out/idefics2-first-tiny.html").read_text())
    assert {parsed(command)[0] for command in commands} == {"run", "table"}
    for name, found in map(parsed, commands):
        assert found["file"].is_file() and found["file"].name == "a winner.yaml" and found["scale"] == "tiny"
        assert arm_list(found["arms"]) == ["one, or $two", "three"] and (name == "table" or found["seeds"] == "0,4")
        assert load_experiment(found["file"], scale="tiny", arms=arm_list(found["arms"])).arms
    not_run = printed((folder / "out/index.html").read_text())
    assert not_run and all(parsed(command)[0] in ("run", "report", "table") for command in not_run)


def test_what_is_said_after_a_sweep_was_applied_can_be_run(folder: Path) -> None:  # noqa: F811
    home = Home(folder / "home").prepare(minimum_free=0)
    (folder / "my sweeps").mkdir()
    file = write_sweep(folder / "my sweeps", budget={"trials": 1})
    toy = file.with_name("toy.yaml")
    toy.write_text(toy.read_text().replace("plain:", '"plain, as it is":'))
    file.write_text(file.read_text().replace("arms: plain", "arms: 'plain, as it is'"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_ablate.launch.campaign.publish_missing", lambda *arguments: 0)
        sweep(file, home, Oracle())
    out = folder / "my sweeps" / "tuned.yaml"
    result = call("sweep", "apply", file, out, "--home", home.root)
    assert result.exit_code == 0, result.output
    (command,) = printed(result.stderr)
    name, found = parsed(command)
    assert name == "run" and found["file"] == out and found["scale"] == "paper"
    assert found["home"] == str(home.root), "where the trials are: elsewhere it would train again"
    loaded = load_experiment(found["file"], scale="paper", arms=arm_list(found["arms"]))
    assert list(loaded.arms) == ["plain, as it is"] and loaded.arms["plain, as it is"].tuned is not None


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("storage", [None, "sqlite:////a b/s.db"])
def test_what_is_named_after_a_sweep_looks_where_it_ran(
    storage: str | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if known and storage:
        monkeypatch.setenv("VLM_ABLATE_STUDIES", storage)
    for action, rest in (("show", []), ("plots", []), ("apply", ["OUT.yaml"])):
        name, found = parsed(sweep_command(action, Path("my s.yaml"), *rest, home="/my home", storage=storage))
        assert name == f"sweep {action}" and found["file"] == Path("my s.yaml")
        assert (found["home"], found["storage"]) == ("/my home", storage)


def test_the_command_that_continues_an_interrupted_one_does_not_begin_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/bin/vlm-ablate", "run", "my x.yaml", "--rerun", "--home", "there"])
    name, found = parsed(this_command())
    assert (name, found["file"], found["home"], found["rerun"]) == ("run", Path("my x.yaml"), "there", False)


@pytest.mark.parametrize("place", ["with blank", "@lab", "it's #1"])
def test_what_new_writes_loads_and_names_itself_wherever_it_stands(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(place).mkdir()
    first = Path(place) / "first.yaml"
    made = call("new", "2024", "--out", first, "--factor", "stages.pretrain.learning_rate", "--values", "1.0e-3,1.0e+3")
    assert made.exit_code == 0, made.output
    for text in (made.stderr, first.read_text().replace("#   ", "")):
        told = [(name, found.get("file") or found["files"][0]) for name, found in map(parsed, printed(text))]
        assert told == [(name, first) for name in ("validate", "plan", "run", "table")]
    second = call("new", "second", "--base", first)
    assert second.exit_code == 0, second.output
    loaded = load_experiment("second.yaml", scale="laptop")
    assert load_experiment(first, scale="laptop").experiment.name == "2024" and not loaded.warnings
    rates = [
        arm.config.stages["pretrain"].learning_rate for arm in load_experiment(first, scale="laptop").arms.values()
    ]
    assert rates == [1e-3, 1e3]


def test_half_of_the_base_is_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    factor = "stages.pretrain.learning_rate"
    assert call("new", "base", "--factor", factor, "--values", "0.12345678901,1.0e-07").exit_code == 0
    text = Path("base.yaml").read_text()
    Path("other.yaml").write_text(text.partition("arms:")[0] + "stages: {pretrain: {learning_rate: 1.23456789e-05}}\n")
    made = call("new", "mine", "--base", "other.yaml", "--factor", factor)
    assert made.exit_code == 0, made.output
    rates = [arm.config.stages["pretrain"].learning_rate for arm in load_experiment("mine.yaml").arms.values()]
    assert rates == [rates[0], rates[0] / 2]
    base = load_experiment("mine.yaml").base.stages["pretrain"].learning_rate
    assert rates[0] == base, "the base's own, digit by digit"


def test_where_nothing_was_run_the_command_that_runs_it_is_at_the_scale_that_was_asked_for(folder: Path) -> None:  # noqa: F811
    result = call("table", "idefics2/first", "--scale", "tiny", "--home", folder / "not here")
    assert result.exit_code == 1
    name, found = parsed(printed(result.stderr)[0])
    assert name == "run" and found["scale"] == "tiny" and found["file"].is_file()
