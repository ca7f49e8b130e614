"""Sweeps are tested with many runs that nobody looks at in a store; publishing each takes longer than all else."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def unpublished(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves runs out of the tracking store, unless a test asks for the fixture `published`."""
    if "published" not in request.fixturenames:
        monkeypatch.setattr("vlm_ablate.launch.campaign.publish_missing", lambda *arguments: 0)


@pytest.fixture
def published() -> None:
    """The runs of this test are in the store."""
