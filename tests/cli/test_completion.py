"""Shell completion: what `--install-completion` writes works in the shell that it is written for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("vlm-ablate")
pytestmark = pytest.mark.skipif(not COMMAND.is_file(), reason="the command is not installed beside Python")


def in_bash(script: str, home: Path) -> str:
    """What a new bash with this home prints."""
    path = f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}"
    told = {**os.environ, "HOME": str(home), "PATH": path}
    return subprocess.run(
        ["bash", "--norc", "-c", f"{script}\ntrue"], env=told, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which completion was installed."""
    folder = tmp_path_factory.mktemp("home")
    assert "bash completion installed" in in_bash("vlm-ablate --install-completion", folder)
    return folder


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vlm-ablate re", ["report", "reproduce"]),
        ("vlm-ablate run --sc", ["--scale"]),
        ("vlm-ablate sweep ap", ["apply"]),
        ("vlm-ablate plan --sharding zero", ["zero1", "zero2", "zero3"]),
    ],
)
def test_bash_completes_commands_options_and_choices(typed: str, offered: list[str], home: Path) -> None:
    words = typed.split()
    script = f"""
        source ~/.bashrc
        COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}
        function=$(complete -p vlm-ablate | grep -o '_[a-z_]*completion')
        $function vlm-ablate "{words[-1]}" "{words[-2]}"
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert in_bash(script, home).split() == offered
