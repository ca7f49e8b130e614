"""Files beside a target: made new, never through a link, and none left by writers that were killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_ablate.errors import StorageError
from vlm_ablate.storage import atomic_file, atomic_path, fresh_file, link_or_copy, locked, write_atomically

_WRITE = """
import sys
from pathlib import Path
from vlm_ablate.storage import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half of it")
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def _writer(path: Path) -> subprocess.Popen[str]:
    """Another process in the middle of writing `path`."""
    process = subprocess.Popen([sys.executable, "-c", _WRITE, str(path)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout and process.stdout.readline() == "begun\n"
    return process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    for _ in range(2):
        killed = _writer(tmp_path / "log")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    assert len(names(tmp_path)) == 1, "the second removed what the first had left"
    write_atomically(tmp_path / "log", "whole")
    assert names(tmp_path) == {"log"} and (tmp_path / "log").read_text() == "whole"


def test_a_writer_that_lives_is_left_alone_and_the_last_one_wins(tmp_path: Path) -> None:
    other = _writer(tmp_path / "log")
    write_atomically(tmp_path / "log", "mine")
    assert (tmp_path / "log").read_text() == "mine" and len(names(tmp_path)) == 2
    other.communicate("")
    assert other.returncode == 0
    assert names(tmp_path) == {"log"} and (tmp_path / "log").read_text() == "half of it"


def test_unfinished_files_of_other_targets_stay(tmp_path: Path) -> None:
    (tmp_path / ".other.12345678.partial").write_text("")
    write_atomically(tmp_path / "log", "whole")
    assert names(tmp_path) == {"log", ".other.12345678.partial"}


@pytest.mark.parametrize("swept", [True, False], ids=["before", "in the same moment"])
def test_a_link_at_the_name_of_an_unfinished_file_is_removed_and_what_it_names_is_not_written(
    swept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not swept:
        monkeypatch.setattr("vlm_ablate.storage._sweep", lambda path: None)
    (tmp_path / "valued").write_text("valued")
    monkeypatch.setattr("secrets.token_hex", lambda size: next(tokens))
    tokens = iter(["guessed", "another"])
    (tmp_path / ".log.guessed.partial").symlink_to(tmp_path / "valued")
    with atomic_file(tmp_path / "log") as file:
        file.write(b"new")
    assert (tmp_path / "valued").read_text() == "valued" and (tmp_path / "log").read_text() == "new"
    assert names(tmp_path) == {"valued", "log"} | (set() if swept else {".log.guessed.partial"})


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="a symbolic link is in the way"), locked(tmp_path / ".lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_fresh_file_takes_the_place_of_a_link_not_of_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "valued").write_text("valued")
    (tmp_path / "server.log").symlink_to(tmp_path / "valued")
    with fresh_file(tmp_path / "server.log", private=True) as file:
        file.write(b"new")
    assert (tmp_path / "valued").read_text() == "valued" and (tmp_path / "server.log").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "server.log").stat().st_mode) == 0o600


def test_private_files_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "open", "")
        write_atomically(tmp_path / "private", "", private=True)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"open": 0o644, "private": 0o600}


def test_a_name_that_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="the name is too long"):
        write_atomically(tmp_path / ("a" * 300), "")


def test_what_a_file_holds_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("on disk"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("in place"), replace(*paths))[1])
    write_atomically(tmp_path / "file", "text")
    assert done == ["on disk", "in place"]
    with atomic_path(tmp_path / "file") as path:
        path.write_text("other")
    assert done == ["on disk", "in place"] * 2 and (tmp_path / "file").read_text() == "other"
    write_atomically(tmp_path / "file", "text", durable=False)
    assert done == ["on disk", "in place"] * 2 + ["in place"]


def test_a_name_to_write_to_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "file") as path:
        path.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("links", [True, False], ids=["linked", "copied"])
def test_the_same_file_or_folder_in_another_place_whole_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refused(*places: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    folder, place = tmp_path / "of", tmp_path / "new" / "place"
    folder.mkdir()
    (folder / "file").write_text("text")
    for _ in range(2):  # whoever was killed after it does it again
        link_or_copy(folder / "file", place)
    link_or_copy(folder, tmp_path / "new" / "folder")
    for found in (place, tmp_path / "new" / "folder" / "file"):
        assert found.read_text() == "text" and found.samefile(folder / "file") is links
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == ["file", "folder", "place"]
