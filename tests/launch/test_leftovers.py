"""What a launch that is gone has left in an engine is the next one's, once, if it would have started the same."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.launch.test_local import TARGET
from tests.tracking.specs import make_spec
from vlm_ablate.events import StepDone
from vlm_ablate.home import Home
from vlm_ablate.launch.handover import Handover, Saying, Task
from vlm_ablate.launch.leftovers import Leftovers
from vlm_ablate.launch.wire import Message
from vlm_ablate.lease import Lease, holder

SPEC = make_spec("mlp", 1)


def setup(home: Home, **changes: Any) -> dict[str, Any]:
    shared = {"home": str(home.root), "target": TARGET, "tracking_uri": home.tracking_uri, "path": sys.path}
    return shared | {"launcher": "a test", "threads": 1, "host": "here"} | changes


def left_by_another(home: Home, *said: Message) -> Task:
    task = Handover.create(home, setup(home, host="there", path=["/elsewhere"])).task(1, SPEC)
    task.note_job("17_0")
    saying = Saying(task)
    for message in said:
        saying.send(message)
    return task


@contextmanager
def taken(home: Home, **changes: Any) -> Iterator[Leftovers]:
    left = Leftovers.of(home, setup(home, **changes))
    yield left
    left.close(settled=True)


def test_a_job_that_goes_on_is_taken_over_once(home: Home) -> None:
    task = left_by_another(home, ("begun",), ("event", StepDone(SPEC.id, 1, 10, 1.0, 1.0)))
    with taken(home) as left, taken(home) as other:
        found = left.pop(SPEC.id)
        assert found is not None and (found.task, found.job) == (task, "17_0")
        assert left.pop(SPEC.id) is None and other.pop(SPEC.id) is None
    assert not any(home.launches.iterdir()), "nobody needs the folder any more"


def test_what_nobody_asks_for_goes_on_for_the_next(home: Home) -> None:
    left_by_another(home)
    with taken(home):
        pass
    with taken(home) as left:
        assert left.pop(SPEC.id) is not None


@pytest.mark.parametrize("last", [("died", "killed"), ("elsewhere", "another has it")])
def test_a_job_that_has_said_its_last_word_is_not_waited_for(home: Home, last: Message) -> None:
    left_by_another(home, ("begun",), last)
    with taken(home) as left:
        assert left.pop(SPEC.id) is None


def test_a_job_of_a_command_that_lives_is_its_own(home: Home) -> None:
    task = left_by_another(home)
    with Lease.acquire(task.root.parents[1]), taken(home) as left:
        assert left.pop(SPEC.id) is None


@pytest.mark.parametrize("meanwhile", ["said", "removed"])
def test_a_launch_that_another_command_has_settled_meanwhile_is_given_back(
    home: Home, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    task = left_by_another(home, ("begun",))
    root, acquire = task.root.parents[1], Lease.acquire

    def later(folder: Path, **options: Any) -> Lease:
        if meanwhile == "removed":
            shutil.rmtree(folder)
        else:
            Saying(task).send(("died", "killed"))
        return acquire(folder, **options)

    monkeypatch.setattr(Lease, "acquire", later)
    left = Leftovers.of(home, setup(home))
    assert left.pop(SPEC.id) is None and holder(root) is None


@pytest.mark.parametrize("change", [{"threads": 2}, {"tracking_uri": "http://elsewhere"}, {"launcher": "another"}])
def test_a_job_that_would_be_started_otherwise_today_is_left_alone(home: Home, change: dict[str, Any]) -> None:
    left_by_another(home)
    with taken(home, **change) as left:
        assert left.pop(SPEC.id) is None


def test_a_job_that_was_told_to_leave_is_not_waited_for(home: Home) -> None:
    left_by_another(home).withdraw()
    with taken(home) as left:
        assert left.pop(SPEC.id) is None
