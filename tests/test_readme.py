"""What the README shows works as printed: its commands parse, its experiment validates, its connector runs."""

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

from vlm_ablate.accounting import plan_model
from vlm_ablate.cli.app import app
from vlm_ablate.config.expand import load_experiment
from vlm_ablate.registry import connectors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.partition("  #")[0].strip() for line in re.findall(r"^vlm-ablate .*$", README, re.MULTILINE)]


def block(language: str, containing: str) -> str:
    (found,) = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    return found


@pytest.fixture
def my_connector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The README's connector as the plug-in module that it says it is."""
    (tmp_path / "my_connector.py").write_text(block("python", "@connectors.register"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_connector"
    connectors._entries.pop("mean_pool", None)
    sys.modules.pop("my_connector", None)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 7


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_has_the_arguments_and_options_it_is_given(command: str) -> None:
    group, rest = typer.main.get_command(app), shlex.split(command)[1:]
    context = group.make_context("vlm-ablate", list(rest))
    while hasattr(group, "commands"):
        name, group, rest = group.resolve_command(context, rest)
        context = group.make_context(name, list(rest), parent=context)
    for part in rest:
        if part.startswith("experiments/") and "*" not in part:
            assert (ROOT / part).is_file(), part


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
