"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import pytest

from vlm_ablate.data.offline.pictures import pictures
from vlm_ablate.errors import AssetMissing


@pytest.fixture(scope="session")
def offline_material() -> None:
    """Skips a test on a machine without the packages of the `offline` extra."""
    try:
        pictures()
    except AssetMissing as missing:
        pytest.skip(str(missing))
