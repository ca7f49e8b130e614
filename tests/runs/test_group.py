"""The first rank when the store is gone in which the ranks meet: it ends the others, and does not wait for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore, TCPStore

from tests.tracking.specs import make_spec
from vlm_ablate.home import Home
from vlm_ablate.launch.base import Placement, placed
from vlm_ablate.runs import group, meeting
from vlm_ablate.runs.endings import ending, exit_message
from vlm_ablate.runs.folder import RunFolder
from vlm_ablate.runs.group import Group
from vlm_ablate.runs.meeting import VARIABLE, Meeting, Pulse
from vlm_ablate.training.ranks import Ranks


@dataclass
class Alone:
    """A first rank whose store has gone."""

    group: Group
    second: subprocess.Popen[bytes]
    left_with: list[int]
    """Exit statuses with which the first rank would have left."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Alone]:
    held = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    second = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    nobody: Any = Ranks()
    left_with: list[int] = []

    def leave(status: int) -> None:
        left_with.append(status)
        made._closing = True

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setenv(VARIABLE, Meeting("127.0.0.1", held.port, 1).to_text())
    monkeypatch.setattr(group, "start_rank", lambda *place: second)
    monkeypatch.setattr(group, "Ranks", lambda *place: nobody)
    monkeypatch.setattr(group, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(group, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(Group, "_agree", lambda self, mine: None)
    spec, _ = placed(make_spec(), Placement(devices=2))
    made = Group(spec, Home(tmp_path))
    del held
    yield Alone(made, second, left_with)
    made._closing = True
    second.kill()
    second.wait()


def test_a_first_rank_without_a_store_ends(alone: Alone, capfd: pytest.CaptureFixture[str]) -> None:
    for thread in threading.enumerate():
        if thread.name == "ranks":
            thread.join(5)
    assert alone.left_with == [group.LEFT_ALONE]
    assert "the meeting point of the ranks is gone" in capfd.readouterr().err


def test_without_a_store_the_ranks_of_this_machine_are_ended(alone: Alone) -> None:
    error = RuntimeError("a step that failed")
    assert alone.group.blame(error) is error
    alone.group.close()
    assert alone.second.poll() is not None


def test_a_process_lives_as_long_as_its_pulse_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "SILENT_SECONDS", 0.05)
    store, pulse = HashStore(), Pulse()
    assert not pulse.silent(store, "beat"), "it may not have begun to tell"
    time.sleep(0.1)
    assert pulse.silent(store, "beat")
    store.set("beat", "1")
    assert not pulse.silent(store, "beat")
    time.sleep(0.1)
    assert pulse.silent(store, "beat")


def test_the_end_of_a_process_is_told_whatever_ended_it(tmp_path: Path) -> None:
    assert ending(3) == "exited with status 3" and "out of memory" in ending(-9)
    assert ending(-35) == "was ended by signal 35", "a real-time signal has no name"
    folder = RunFolder(tmp_path)
    folder.output.write_text("one\ntwo\n")
    assert exit_message(-35, folder) == "the worker process was ended by signal 35 (last line of its log: two)"
