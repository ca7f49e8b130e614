"""The command line as tests call it: in this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from vlm_ablate.cli.app import app


def call(*words: str | Path) -> Result:
    """What `vlm-ablate WORDS` prints, and how it ends."""
    return CliRunner().invoke(app, list(map(str, words)))


def told(result: Result) -> str:
    """Its messages, on one line."""
    return " ".join(result.stderr.split())
