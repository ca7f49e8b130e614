"""Where commands are given."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are given in the checkout, on a wide terminal."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("COLUMNS", "160")
