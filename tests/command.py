"""The command line as tests call it: in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

from vlm_ablate.cli.app import app

_COMMAND = typer.main.get_command(app)
"""Made once: that takes longer than most of its commands."""


def call(*words: str | Path) -> Result:
    """What `vlm-ablate WORDS` prints, and how it ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", lambda _: _COMMAND)
        return CliRunner().invoke(app, list(map(str, words)))


def told(result: Result) -> str:
    """Its messages, on one line."""
    return " ".join(result.stderr.split())
