"""A stage's log: what was logged is there after a kill, half a line is dropped, all else is told with its place."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_ablate.errors import StorageError
from vlm_ablate.runs.log import Log, read_log


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log.jsonl")


def test_a_log_that_was_never_written_is_empty(log: Log) -> None:
    assert read_log(log.path) == []


def test_every_value_comes_back_as_it_was(log: Log) -> None:
    log.add({"train/loss": 0.1 + 0.2, "a": math.inf}, 1)
    log.add({"train/loss": math.nan}, 2)
    first, second = read_log(log.path)
    assert (first.step, first.values) == (1, {"train/loss": 0.1 + 0.2, "a": math.inf})
    assert math.isnan(second.values["train/loss"])
    assert first.time_ms <= second.time_ms


@given(cut=st.integers(1, 200))
def test_a_log_cut_anywhere_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    log = Log(tmp_path_factory.mktemp("log") / "log.jsonl")
    for step in range(5):
        log.add({"loss": float(step)}, step, time_ms=1000)
    whole = log.path.read_bytes()
    kept = whole[: max(0, len(whole) - cut)]
    log.path.write_bytes(kept)
    line = len(whole) // 5
    assert [e.step for e in read_log(log.path)] == list(range((len(kept) + 1) // line))
    log.rewind(10)
    log.add({"loss": 9.0}, 9)
    assert read_log(log.path)[-1].step == 9


def test_going_on_from_a_checkpoint_drops_what_will_be_logged_again(log: Log) -> None:
    for step in (10, 20, 30):
        log.add({"loss": float(step)}, step)
    log.rewind(20)
    assert [entry.step for entry in read_log(log.path)] == [10, 20]


@pytest.mark.parametrize(
    "line", [b"nothing", b"[]", b'{"step": 1}', b'{"step": 1, "time_ms": 2, "values": 3}', b"\xff"]
)
def test_a_line_that_is_no_entry_is_told_with_file_and_number(log: Log, line: bytes) -> None:
    log.add({"loss": 1.0}, 1)
    log.path.write_bytes(log.path.read_bytes() + line + b"\n")
    log.add({"loss": 2.0}, 2)
    with pytest.raises(StorageError, match=r"log\.jsonl:2 is no entry"):
        read_log(log.path)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        Log(tmp_path / "log.jsonl").add({"loss": 1.0}, 1)


def test_lines_are_on_the_disk_before_what_will_not_repeat_them(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    log.sync()
    log.add({"loss": 1.0}, 1)
    log.sync()
    assert synced == [log.path.stat().st_size]


def test_who_had_the_log_before_writes_to_a_file_that_is_gone(log: Log) -> None:
    log.add({"loss": 1.0}, 1)
    late = Log(log.path)
    late.add({"loss": 2.0}, 2)
    log.rewind(1)
    late.add({"loss": 3.0}, 3)
    log.add({"loss": 4.0}, 2)
    assert [(e.step, e.values["loss"]) for e in read_log(log.path)] == [(1, 1.0), (2, 4.0)]
