"""Commands that only read answer fast, because nothing heavy is imported for them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from vlm_ablate import __version__
from vlm_ablate.cli import main

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "mlflow", "pandas", "matplotlib", "lightning", "datasets", "scipy", "optuna")
T03 = "experiments/idefics2/t03_architecture.yaml"


def imported(*arguments: str) -> set[str]:
    """Top-level modules in memory after a command."""
    code = (
        "import sys\nfrom vlm_ablate.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('\\nMODULES', *{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.rpartition("MODULES")[2].split())


HELP = [("--help",), *((command, "--help") for command in ("run", "sweep", "export", "generate", "parity"))]


@pytest.mark.parametrize("arguments", [*HELP, ("list",), ("validate", T03), ("schema",)])
def test_nothing_heavy_is_imported(arguments: tuple[str, ...]) -> None:
    modules = imported(*arguments)
    assert "vlm_ablate" in modules
    assert not modules & set(HEAVY)


def test_a_plan_that_was_made_before_needs_nothing_heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))
    arguments = ("plan", T03, "--scale", "paper", "--arms", "ar_linear_frozen")
    assert "torch" in imported(*arguments)
    assert not imported(*arguments) & set(HEAVY)


def test_help_does_not_even_import_pydantic() -> None:
    assert not imported("--help") & {"pydantic", "yaml", "numpy"}


def test_a_command_ends_without_a_last_search_for_cycles() -> None:
    code = (
        "import atexit, gc\nfrom vlm_ablate.cli import main\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1000))\nmain()"
    )
    run = subprocess.run([sys.executable, "-c", code, "--version"], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == f"vlm-ablate {__version__}\nTrue\n"


def test_module_and_console_script_are_the_same() -> None:
    (script,) = entry_points(group="console_scripts", name="vlm-ablate")
    assert script.load() is main
    run = subprocess.run([sys.executable, "-m", "vlm_ablate", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == f"vlm-ablate {__version__}\n"
