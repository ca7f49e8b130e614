"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

STORE_SECONDS = 200.0


@contextmanager
def patient_with_stores() -> Iterator[None]:
    """Within the block the end of a run waits for its store as long as a busy machine takes to import MLflow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm_ablate.runs.publishing.CLOSE_SECONDS", STORE_SECONDS)
        yield


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once it holds; a failure after so many seconds, which are many: machines that test are often busy."""
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert held or condition(), f"not within {seconds:g} s"
