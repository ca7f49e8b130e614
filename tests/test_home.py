"""Files of the home folder: whole or absent, readable by others as other files are, refusals named."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs.disk import write_results
from tests.tracking.specs import make_spec
from vlm_ablate.errors import StorageError
from vlm_ablate.home import Home
from vlm_ablate.runs.publishing import publish_missing
from vlm_ablate.storage import atomic_file, locked, write_atomically
from vlm_ablate.tracking.read import read_records


@pytest.fixture(params=[0o022, 0o027])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_file_gets_the_usual_mode(tmp_path: Path, umask: int) -> None:
    write_atomically(tmp_path / "new", "text")
    (tmp_path / "usual").touch()
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("new", "usual")}
    assert modes["new"] == modes["usual"] == 0o666 & ~umask


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_refusal_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a part of the path is a file"):
        write_atomically(tmp_path / "file" / "below", "text")


def test_who_waits_for_a_lock_is_called_and_comes_second(tmp_path: Path) -> None:
    done, waited = [], threading.Event()

    def second() -> None:
        with locked(tmp_path / "deep" / "lock", waited.set):
            done.append("second")

    with locked(tmp_path / "deep" / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(60)
        done.append("first")
    thread.join(60)
    assert done == ["first", "second"]


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot lock"), locked(tmp_path / "file" / "lock"):
        pytest.fail("held a lock that is not there")


@pytest.mark.parametrize("name", ["a?b", "a%20b", "100%25"])
def test_a_path_that_the_store_would_take_for_another_is_refused_before_anything_is_made(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(StorageError, match="means something else in the address of its tracking store"):
        Home.at(str(tmp_path / name / "home"))
    with pytest.raises(StorageError):
        Home(tmp_path / name).prepare(minimum_free=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a#b", "50% (1)", "é"])
def test_a_store_stands_in_its_home_whatever_the_path_is_called(
    name: str, tmp_path: Path, store_template: Path
) -> None:
    home = Home(tmp_path / name).prepare(minimum_free=0)
    shutil.copyfile(store_template, home.database)
    spec = make_spec()
    write_results(spec, home)
    assert publish_missing(home, home.tracking_uri, print) == 1
    assert [record.arm for record in read_records(home.tracking_uri, spec.experiment)] == [spec.arm]
    assert [folder.name for folder in tmp_path.iterdir()] == [name]
