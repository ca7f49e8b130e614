"""Whether the other ranks of a run are there: the first one looks from the moment they are told of it until it ends.

A rank that waits for others in a collective step, or for them to meet, hears nothing else and waits for days
(`training/ranks.py`). So this is done in a thread, over a connection of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore

from vlm_ablate.errors import VlmAblateError
from vlm_ablate.runs.endings import ending
from vlm_ablate.runs.meeting import (
    BEAT,
    ENDED,
    SILENT_SECONDS,
    Meeting,
    Pulse,
    beat_name,
    failed_name,
    gone_name,
    identity_name,
    machine_name,
)

WATCH_SECONDS = 1.0
CONNECT_SECONDS = 60
MEET_SECONDS = 600.0
"""How long ranks may take from their start until all have met: they import torch and plug-ins, and read the files that
the experiment names, each machine from its own disk or share."""
NOTICE_SECONDS = 5.0
"""How long the first rank may take to hear that another is gone, while they have not met."""
GRACE_SECONDS = 30.0
"""How long ranks may take to leave, and the first one to notice that another is gone."""
LEFT_ALONE = 70
"""Exit status of a first rank that waited for one that is gone."""


class Watch:
    """Over the ranks of one group; it lets the pulse of the first one rise meanwhile.

    When one is gone, the first rank is to ask `check`. One that does not, as it waits, is ended, with what it started;
    the run goes on from its checkpoint.
    """

    def __init__(
        self, meeting: Meeting, group: str, world: int, processes: Mapping[int, subprocess.Popen[bytes]]
    ) -> None:
        """
        Args:
            group: its name in the store.
            processes: ranks that are started here; they may come later.

        Raises:
            VlmAblateError: the meeting point cannot be reached.
        """
        self._world, self._seats, self._processes = world, meeting.seats, processes
        self._shared = meeting.store(timedelta(seconds=CONNECT_SECONDS))
        self._store = PrefixStore(group, self._shared)
        self._pulses = {seat: Pulse() for seat in range(1, meeting.seats)}
        self._began, self._met = time.monotonic(), False
        self._over = threading.Event()
        self._problem: VlmAblateError | None = None
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def check(self) -> None:
        """
        Raises:
            VlmAblateError: a rank is gone, or has not come; it is named, with its machine.
        """
        if self._problem is not None:
            raise self._problem

    def met(self) -> None:
        """All ranks have met: from now on they may take as long as they want."""
        self._met = True

    def stop(self) -> None:
        """Look no more: ranks may end."""
        self._over.set()

    def close(self) -> None:
        """The same, and no other rank is needed any more: who has started some on another machine hears that."""
        self.stop()
        with contextlib.suppress(RuntimeError):  # torch's: the store is gone
            self._store.set(ENDED, "")

    def _watch(self) -> None:
        beats, since = 0, 0.0
        while not self._over.is_set():
            if self._problem is None:
                beats, since = beats + 1, time.monotonic()
                try:
                    self._store.set(BEAT, str(beats))
                    self._problem = self._failure() or self._late()
                except RuntimeError:  # torch's: the store is gone, and who has opened it
                    self._problem = VlmAblateError("the meeting point of the ranks is gone")
            elif time.monotonic() - since > (GRACE_SECONDS if self._met else NOTICE_SECONDS):
                self._leave(self._problem)
            self._over.wait(WATCH_SECONDS)

    def _failure(self) -> VlmAblateError | None:
        """Which rank failed, and why: one that is gone, then one that says so, then one that lost others."""
        said, gone = [], []
        for rank in range(1, self._world):
            process = self._processes.get(rank)
            if self._store.check([failed_name(rank)]):
                told = json.loads(self._store.get(failed_name(rank)))
                said.append((not told["reason"], rank, str(told["message"])))
            elif process is not None and process.poll() not in (None, 0):
                gone.append(f"{self._named(rank)} {ending(process.returncode)}")
            elif self._store.check([gone_name(rank)]):
                gone.append(f"{self._named(rank)} {ending(int(self._store.get(gone_name(rank))))}")
        for seat, pulse in self._pulses.items():
            if pulse.silent(self._shared, beat_name(seat)):
                first = self._named(seat * self._world // self._seats)
                gone.append(f"{first}: its machine has shown no life for {SILENT_SECONDS:.0f} s")
        gone += [f"{self._named(rank)} failed: {message}" for _, rank, message in sorted(said)]
        return VlmAblateError(gone[0]) if gone else None

    def _late(self) -> VlmAblateError | None:
        """Which rank has not come in time."""
        if self._met or time.monotonic() - self._began < MEET_SECONDS:
            return None
        missing = [rank for rank in range(1, self._world) if not self._store.check([identity_name(rank)])]
        if not missing:
            return VlmAblateError(
                f"the ranks have not reached each other in {MEET_SECONDS:.0f} s: "
                + ", ".join(self._named(rank) for rank in range(min(self._world, 8))),
                hint="each has to reach all others, at any port; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the"
                " network interface",
            )
        others = f", nor have {len(missing) - 1} other ranks" if len(missing) > 1 else ""
        return VlmAblateError(
            f"{self._named(missing[0])} has not come in {MEET_SECONDS:.0f} s{others}",
            hint="until then it imports torch and the plug-ins, and reads files of the experiment: there some of"
            " it takes longer, or hangs",
        )

    def _named(self, rank: int) -> str:
        """A rank with its machine."""
        seat = rank * self._seats // self._world
        name = machine_name(seat)
        if seat == 0:
            machine = socket.gethostname()
        elif self._shared.check([name]):
            machine = self._shared.get(name).decode()
        else:
            machine = "a machine that has not told its name"
        return f"rank {rank} on {machine}"

    def _leave(self, problem: VlmAblateError) -> None:
        """End this process, which waits."""
        self.close()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        told = f"{problem.message}; the other ranks wait for it in vain"
        print(f"hint: {problem.hint}\n{told}" if problem.hint else told, file=sys.stderr, flush=True)
        os._exit(LEFT_ALONE)
