"""What README and docs show works as printed: commands parse, experiments validate, the connector runs, links lead."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from vlm_ablate import registry
from vlm_ablate.accounting import plan_model
from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.registry import connectors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCS = sorted(file for file in (ROOT / "docs").rglob("*.md") if "generated" not in file.parts)
LISTS = [ROOT / "experiments/README.md", ROOT / "benchmarks/README.md"]
EVERYTHING = "\n".join([README, *(page.read_text() for page in [*DOCS, *LISTS])]).replace("\\\n", " ")
IN_BLOCKS = [
    line.partition("  #")[0].partition(" > ")[0].strip()
    for line in re.findall(r"^(?:\$ )?(vlm-ablate .*)$", EVERYTHING, re.MULTILINE)
]
IN_TEXT = [
    " ".join(code.partition(" > ")[0].split())
    for code in re.findall(r"`(vlm-ablate [^`]+)`", re.sub(r"```.*?```", "", EVERYTHING, flags=re.DOTALL))
]
# What text says of a command need not give it arguments.
COMMANDS = list(dict.fromkeys([*IN_BLOCKS, *(command for command in IN_TEXT if len(command.split()) > 2)]))
PAGES = [*ROOT.glob("*.md"), *LISTS, *DOCS, *ROOT.glob("vlm_ablate/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
PATH = re.compile(r"(?<![\w/.-])(?:experiments|vlm_ablate|results|notebooks|benchmarks|tests)/[\w./*-]*[\w/*]")


def block(language: str, containing: str) -> str:
    (found,) = [b for b in re.findall(rf"```{language}\n(.*?)```", EVERYTHING, re.DOTALL) if containing in b]
    return found


@pytest.fixture
def my_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The README's connector as the plug-in module that it says it is."""
    (tmp_path / "my_connector.py").write_text(block("python", "@connectors.register"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(connectors, "_entries", dict(connectors._entries))
    monkeypatch.setattr(registry, "_loaded", set(registry._loaded))
    yield "my_connector"
    sys.modules.pop("my_connector", None)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_has_the_arguments_and_options_it_is_given(command: str) -> None:
    group, rest = typer.main.get_command(app), shlex.split(command)[1:]
    context = group.make_context("vlm-ablate", list(rest))
    while hasattr(group, "commands"):
        name, group, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, list(rest), parent=context)
    for part in rest:
        if part.startswith("experiments/") and "*" not in part:
            assert (ROOT / part).is_file(), part


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = set(PATH.findall(page.read_text()))
    assert [path for path in named if "NAME" not in path and not list(ROOT.glob(path.rstrip("/")))] == []


def test_the_records_that_are_shipped_give_the_table_that_is_shown(tmp_path: Path) -> None:
    run = CliRunner()
    for command in IN_BLOCKS:
        if "--home shown" in command:
            words = [str(ROOT / w) if (ROOT / w).is_file() else w for w in shlex.split(command)[1:]]
            result = run.invoke(app, [str(tmp_path) if word == "shown" else word for word in words])
            assert result.exit_code == 0, result.output
    shown = (ROOT / "results/idefics2/t03_architecture/laptop/table.md").read_text()
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert rows and set(rows) <= set(result.stdout.splitlines())


def test_what_the_text_says_of_the_table_is_what_the_table_says() -> None:
    shown = (ROOT / "results/idefics2/t03_architecture/laptop/table.md").read_text()
    numbers = ("+30.6 \\[+25.4, +35.9\\]", "65.6 ± 2.1", "73.2 ± 2.6", "18.5 ± 1.7", "72.5 ± 2.7",
               "−7.6 \\[−10.6, −4.6\\]", "+7.6 \\[+5.2, +9.9\\]")  # fmt: skip
    for number in numbers:
        assert number in shown.replace("**", "") and number in EVERYTHING
    assert (shown.count("| **agrees** |"), shown.count("| **contradicts** |")) == (2, 1)


def test_what_the_text_says_of_the_tuned_arms_is_what_their_table_says() -> None:
    shown = (ROOT / "results/sweeps/t03_learning_rate/laptop/report/table.md").read_text().replace("**", "")
    for number in ("−4.6 \\[−10.6, +1.4\\]", "+3.3 \\[−1.6, +8.3\\]"):
        assert number in shown and number in EVERYTHING
    assert "contradicts" not in shown and "agrees" not in shown


def test_the_experiment_validates(tmp_path: Path) -> None:
    text = block("yaml", "name: mine/latents").replace("_base.yaml", str(ROOT / "experiments/idefics2/_base.yaml"))
    (tmp_path / "latents.yaml").write_text(text)
    loaded = load_experiment(tmp_path / "latents.yaml", scale=str(ROOT / "experiments/scales/laptop.yaml"))
    assert list(loaded.arms) == ["latents_64", "latents_32"] and not loaded.warnings


def test_the_connector_in_twenty_lines(my_connector: str, tmp_path: Path) -> None:
    lines = [line for line in block("python", "@connectors.register").splitlines() if line.strip()]
    assert len([line for line in lines if not line.startswith(("#", "from", "import"))]) <= 20

    listed = CliRunner().invoke(app, ["list", "connectors", "--plugin", my_connector])
    assert "One visual token: the mean of all patches." in listed.stdout

    module = importlib.import_module(my_connector)
    sizes = {"vision_width": 8, "hidden": 12, "intermediate": 16, "grid": (2, 3)}
    connector = module.MeanPool(module.MeanPoolConfig(), **sizes)
    tokens = connector(torch.randn(5, 6, 8), None, (2, 3))
    assert tokens.shape == (5, connector.visual_tokens((2, 3)), 12)
    tokens.sum().backward()
    assert all(parameter.grad is not None for parameter in connector.parameters())

    base = ROOT / "experiments/idefics2/_base.yaml"
    text = f"base: {base}\nname: mine/pool\ntitle: Pooling\nplugins: [{my_connector}]\n"
    (tmp_path / "pool.yaml").write_text(text + "arms:\n  pool: {set: {model.connector: mean_pool}}\n")
    loaded = load_experiment(tmp_path / "pool.yaml", scale=str(ROOT / "experiments/scales/laptop.yaml"))
    assert plan_model(loaded.arms["pool"].config).visual_tokens_per_image == 1


def test_the_notebook_shows_the_same_connector() -> None:
    cells = json.loads((ROOT / "notebooks" / "03_add_a_connector.ipynb").read_text())["cells"]
    written = ["".join(cell["source"]) for cell in cells if "".join(cell["source"]).startswith("%%writefile")]
    (code,) = [text.partition("\n")[2].strip() for text in written]
    assert code == block("python", "@connectors.register").partition("\n")[2].strip()


@pytest.mark.parametrize("page", [ROOT / "README.md", *LISTS, *DOCS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    linked = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    assert [link for link in linked if not (page.parent / link).exists()] == []


def test_the_readme_fits_one_screen() -> None:
    assert len(README.splitlines()) <= 55 and README.count("![") == 1


def _leaves(name: str, command: typer.core.TyperCommand) -> Iterator[tuple[str, str]]:
    """(words, help) of every command that does something."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command.help or ""
    for word, each in (below or {}).items():
        yield from _leaves(f"{name} {word}", each)


@pytest.mark.parametrize(("name", "told"), list(_leaves("vlm-ablate", typer.main.get_command(app))))
def test_every_help_text_has_an_example_that_parses(name: str, told: str) -> None:
    (example,) = re.findall(r"Example:\s+(vlm-ablate .*)", told)
    assert example.startswith(name.removesuffix(" run")), example
    test_a_printed_command_has_the_arguments_and_options_it_is_given(example.partition(" > ")[0].strip())
