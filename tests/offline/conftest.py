"""Packages that look fetched: their folder layout and manifest, with tiny files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.models.conftest import llama  # noqa: F401
from vlm_ablate.home import Home
from vlm_ablate.offline.debian.catalogue import MANIFEST, catalogue

Place = Callable[[str, Mapping[str, bytes]], Path]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Puts files (path in the package -> content) where a fetched package lies, under a home of the test's own."""
    monkeypatch.setenv("VLM_ABLATE_HOME", str(tmp_path))

    def put(package: str, files: Mapping[str, bytes]) -> Path:
        folder = catalogue()[package].folder(Home(tmp_path))
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (folder / MANIFEST).write_text(json.dumps({"package": package, "version": "1", "sha256": "0" * 64}))
        return folder

    return put
