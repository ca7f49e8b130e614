"""Tests of the packages themselves, left out where these were not fetched."""

from __future__ import annotations

import pytest

from vlm_ablate.offline.debian.catalogue import packages


def needs(collection: str) -> pytest.MarkDecorator:
    """A mark for tests that read all packages of a collection."""
    missing = any(package.manifest() is None for package in packages(collection))
    return pytest.mark.skipif(missing, reason=f"not fetched: `vlm-ablate data fetch {collection}`")
