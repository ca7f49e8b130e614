"""Fixtures that tests of several rooms share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_ablate.errors import AssetMissing
from vlm_ablate.home import Home
from vlm_ablate.offline.pictures import pictures


@pytest.fixture(scope="session")
def offline_material() -> None:
    """Skips a test on a machine without the packages of the `offline` extra."""
    try:
        pictures()
    except AssetMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of models that train in seconds; to be read only."""
    from training.squares import save_parts

    folder = tmp_path_factory.mktemp("parts")
    save_parts(folder)
    return folder


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What `datasets` keeps of a file's tests, and of processes that they start, stays in a folder of theirs."""
    import datasets.config

    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        yield


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: building its schema takes seconds, copying it none."""
    from vlm_ablate.tracking.store import ensure_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    ensure_store(f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path: Path, store_template: Path) -> Home:
    """A prepared home folder with an empty store."""
    home = Home(tmp_path / "home").prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    return home
