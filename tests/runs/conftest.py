"""A run from start to finish, once for all tests that compare with it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import patient_with_stores
from vlm_ablate.home import Home


@pytest.fixture(scope="session", autouse=True)
def patient() -> Iterator[None]:
    """What is read from a store after a run is there."""
    with patient_with_stores():
        yield


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, parts: Path, store_template: Path) -> tuple[Any, ...]:
    """An uninterrupted run: (home, spec, outcome, events)."""
    from training.squares import make_spec

    from vlm_ablate.runs.execute import execute

    events: list[object] = []
    home = Home(tmp_path_factory.mktemp("straight")).prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    spec = make_spec(parts, curve={"points": 2, "limit": 4})
    outcome = execute(spec, home=home, reporter=events.append)
    assert outcome.status == "finished", outcome.message
    return home, spec, outcome, events
