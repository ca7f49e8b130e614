"""The first rank of a run, the ranks that follow it, and who starts some as another machine would: forked processes of
a test, which need not import everything again. What they do is the real thing, but where a test has a rank fail."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.training.together import settle_threads
from tests.waiting import wait_for
from vlm_ablate.errors import VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.launch import seats
from vlm_ablate.launch.seats import Seat
from vlm_ablate.runs import follow, group
from vlm_ablate.runs.group import Group
from vlm_ablate.runs.meeting import VARIABLE, Meeting
from vlm_ablate.runs.spec import RunSpec

Fault = Callable[[int], None]
"""Called by a rank that follows, with its number."""
MET = "met"


class Forked:
    """A process, as `subprocess` has it."""

    def __init__(self, function: Callable[[], int]) -> None:
        self._process = multiprocessing.get_context("fork").Process(target=_call, args=(function,))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def _call(function: Callable[[], int]) -> None:
    status = 99
    settle_threads()
    try:
        status = function()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)  # nothing of the test's process is to be closed twice


def follower(pids: Path, before: Fault, between: Fault, starting: Fault = lambda rank: None) -> Callable[..., Forked]:
    """A `start_rank`.

    Args:
        pids: folder in which the number of each process is told.
        before: what a rank does before it has said what it is.
        between: what it does once all of one machine have said so, before they have met.
        starting: what starting it does beforehand.
    """

    def start(meeting: Meeting, name: str, rank: int, world: int, devices: int, *, apart: bool = False) -> Forked:
        starting(rank)
        identity, ranks = follow.identity, follow.Ranks

        def faulty_identity(spec: RunSpec) -> dict[str, str]:
            before(rank)
            return identity(spec)

        def faulty_ranks(*arguments: Any) -> Any:
            (pids.parent / f"come-{rank}").touch()
            if not apart:
                wait_for(lambda: len(list(pids.parent.glob("come-*"))) == world - 1)
            between(rank)
            return ranks(*arguments)

        def main() -> int:
            (pids / f"{rank}").write_text(str(os.getpid()))
            follow.identity, follow.Ranks = faulty_identity, faulty_ranks  # type: ignore[assignment,misc]
            sys.argv = ["follow.py", meeting.address, str(meeting.port), name, str(rank), str(world), str(devices)]
            return follow.main()

        return Forked(main)

    return start


def first_rank(
    spec: RunSpec, home: Home, start: Callable[..., Forked], said: Path, meeting: Meeting | None = None,
    then: Callable[[], None] = lambda: None,
) -> Forked:  # fmt: skip
    """A process that meets the others, says how that ended in a file, does what comes `then`, and ends them."""

    def main() -> int:
        group.start_rank = start  # type: ignore[assignment]
        if meeting is not None:
            os.environ[VARIABLE] = meeting.to_text()
        try:
            made = Group(spec, home)
        except VlmAblateError as error:
            said.write_text(str(error))
            return 1
        said.write_text(MET)
        then()
        made.close()
        return 0

    return Forked(main)


def other_machine(seat: Seat, start: Callable[..., Forked]) -> Forked:
    """A process that starts the ranks of a seat until it is told that all is over."""

    def main() -> int:
        group.start_rank = start  # type: ignore[assignment]
        seats.check_home = lambda *told: None  # type: ignore[assignment]
        return seats.follow(seat)[0]

    return Forked(main)


def begin_launch(store: Any) -> None:
    """What the first process of a launch tells the others."""
    store.set(seats._HOME, json.dumps(["", ""]))


def end_launch(store: Any) -> None:
    """So that they end."""
    store.set(seats._OVER, json.dumps([0, ""]))
