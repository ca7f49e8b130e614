"""Where ranks meet that the first rank has not started: those of other machines. Imports torch when it is asked only.

Processes that stand beside each other from the beginning to the end of a launch (`launch/seats.py`) hold a store open;
the first rank of each run finds it through a variable of its environment. In the store, by name:

```
groups               how many groups of ranks there have been; the newest is the one that trains
group/N/             what its ranks tell each other (`group.py`, `follow.py`)
group/N/beat         rises while its first rank lives
group/N/ended        its first rank needs no other rank any more
group/N/is/RANK      what a rank is that has started: its configuration, code, versions
group/N/failed/RANK  why a rank failed, as it or who starts it there can tell
group/N/gone/RANK    exit status of a rank that ended by itself with an error
beat/SEAT            rises while a process lives that starts ranks
machine/SEAT         which machine it is on
```
"""

from __future__ import annotations

import ipaddress
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vlm_ablate.errors import VlmAblateError

if TYPE_CHECKING:
    from datetime import timedelta

    from torch._C._distributed_c10d import Store, TCPStore

VARIABLE = "VLM_ABLATE_MEETING"
"""Environment variable of a first rank: the meeting, as JSON."""
GROUPS, BEAT, ENDED = "groups", "beat", "ended"
SILENT_SECONDS = 120.0
"""How long a process may show no life."""


def group_name(number: int) -> str:
    """Prefix of what a group keeps in the store, groups being counted from 1."""
    return f"group/{number}"


def identity_name(rank: int) -> str:
    """Within a group, where a rank tells what it is."""
    return f"is/{rank}"


def failed_name(rank: int) -> str:
    """Within a group, where a rank's `message` is, and whether it is a `reason` or may follow from what others did."""
    return f"failed/{rank}"


def gone_name(rank: int) -> str:
    """Within a group, where the exit status of a rank is."""
    return f"gone/{rank}"


def beat_name(seat: int) -> str:
    """What rises while the process of a seat lives."""
    return f"beat/{seat}"


def machine_name(seat: int) -> str:
    """Where the name of a seat's machine is."""
    return f"machine/{seat}"


class Pulse:
    """Whether a process lives that lets a value in a store rise."""

    def __init__(self) -> None:
        self._heard, self._at = b"", time.monotonic()

    def silent(self, store: Store, name: str) -> bool:
        """Whether the value of that name has been the same for long; one that is not there yet, for so long."""
        heard = store.get(name) if store.check([name]) else b""
        if heard != self._heard:
            self._heard, self._at = heard, time.monotonic()
        return time.monotonic() - self._at > SILENT_SECONDS


@dataclass(frozen=True)
class Meeting:
    """A store that all ranks reach, and how many processes start ranks for it."""

    address: str
    port: int
    seats: int

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Meeting | None:
        """As `VARIABLE` tells; None: there is none."""
        text = environment.get(VARIABLE)
        return cls(**json.loads(text)) if text else None

    def to_text(self) -> str:
        """For `VARIABLE`."""
        return json.dumps(asdict(self))

    @property
    def near(self) -> bool:
        """Whether all of it is on one machine, as far as its address tells."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"

    def store(self, timeout: timedelta, *, host: bool = False) -> TCPStore:
        """The store, opened here or reached.

        Raises:
            VlmAblateError: it cannot be.
        """
        from torch._C._distributed_c10d import TCPStore

        try:
            return TCPStore(self.address, self.port, is_master=host, wait_for_workers=False, timeout=timeout)
        except RuntimeError as error:
            what = "cannot be opened" if host else "does not answer"
            raise VlmAblateError(
                f"the meeting point {self.address}:{self.port} of the ranks {what}: {str(error).splitlines()[0][:200]}",
                hint="MASTER_ADDR and MASTER_PORT (torchrun: --rdzv-endpoint) name a machine that all others reach, and"
                " a port that is free there",
            ) from error
