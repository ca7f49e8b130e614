"""Guards of folders: asked for what is written below them and for nothing else, whatever way leads there."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_ablate import storage
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.storage import check_writable, guard, link_or_copy, unguard, write_atomically


class Lost(VlmAblateError):
    """The right to write is gone."""


@pytest.fixture(autouse=True)
def no_guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(storage, "_guards", {})
    yield


def folders(root: Path, draw: random.Random) -> list[Path]:
    """A tree of folders, with some whose names begin as others do."""
    made = [root]
    for _ in range(12):
        made.append(draw.choice(made) / draw.choice(["a", "ab", "b", "a.b", "é"]))
        made[-1].mkdir(parents=True, exist_ok=True)
    return list(dict.fromkeys(made))


@pytest.mark.parametrize("seed", range(5))
def test_exactly_the_guards_of_the_folders_above_are_asked(seed: int, tmp_path: Path) -> None:
    draw, asked = random.Random(seed), []
    root = tmp_path / "tree"
    root.mkdir()
    places = folders(root, draw)
    (tmp_path / "link").symlink_to(root)
    guarded = draw.sample(places, 5)
    for folder in guarded:
        guard(folder, lambda recent, folder=folder: asked.append((folder, recent)))
    for folder in [*places, tmp_path]:
        for way in (folder, tmp_path / "link" / os.path.relpath(folder, root)):
            asked.clear()
            check_writable(way / "file", recent=0.25)
            assert {found for found, _ in asked} == {g for g in guarded if folder.is_relative_to(g)}
            assert {recent for _, recent in asked} <= {0.25} and len(asked) == len(set(asked))


def test_a_guard_that_was_taken_back_is_not_asked_and_that_of_the_next_holder_stays(tmp_path: Path) -> None:
    asked: list[str] = []

    def first(recent: float) -> None:
        asked.append("first")

    def second(recent: float) -> None:
        asked.append("second")

    guard(tmp_path, first)
    guard(tmp_path, second)  # another lease of the folder, taken before the first was released
    unguard(tmp_path, first)
    check_writable(tmp_path / "file")
    unguard(tmp_path, second)
    unguard(tmp_path, second)
    check_writable(tmp_path / "file")
    assert asked == ["second"]


def test_no_way_of_writing_goes_round_a_guard(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "source").write_text("new")
    write_atomically(tmp_path / "kept" / "file", "old")
    before = sorted(tmp_path.rglob("*"))

    def lost(recent: float) -> None:
        raise Lost("another process has it")

    def through_a_name(path: Path) -> None:
        with storage.atomic_path(path) as place:
            place.write_text("new")

    guard(tmp_path / "kept", lost)
    for write in (lambda path: write_atomically(path, "new"), lambda path: link_or_copy(tmp_path / "source", path),
                  through_a_name):  # fmt: skip
        for name in ("file", "another"):
            with pytest.raises(Lost):
                write(tmp_path / "kept" / name)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "kept" / "file").read_text() == "old"
    write_atomically(tmp_path / "beside", "new")
