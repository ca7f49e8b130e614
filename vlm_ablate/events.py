"""What a run tells while it goes: small frozen values that pickle, for progress displays and logs. No torch here."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Status = Literal["finished", "diverged", "failed", "skipped", "stopped"]


@dataclass(frozen=True)
class Event:
    """Base of all events; `run` is the id of the RunSpec that it is about."""

    run: str


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, or continues from `resumed_step` (optimiser steps over all stages)."""

    name: str
    arm: str
    seed: int
    steps: int
    """Optimiser steps over all stages."""
    resumed_step: int = 0


@dataclass(frozen=True)
class Preparing(Event):
    """Something that is made once and kept, before or between training and answering."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class StageStarted(Event):
    """Stage number `index` (from 0) of `stages` begins."""

    stage: str
    index: int
    stages: int
    steps: int
    """Optimiser steps of this stage."""


@dataclass(frozen=True)
class StageFinished(Event):
    """A stage is trained and its weights are on disk under this key."""

    stage: str
    key: str


@dataclass(frozen=True)
class CurvePoint(Event):
    """Scores of the model as it is after `step` optimiser steps over all stages: metric -> score."""

    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class StepDone(Event):
    """Progress of training; not sent for every step when steps are fast."""

    step: int
    """Optimiser steps done, over all stages."""
    steps: int
    """Optimiser steps of all stages."""
    loss: float
    """Mean loss per supervised token since the last event."""
    tokens_per_s: float
    """Text and visual tokens a second since the last event."""
    seconds_left: float | None = None
    """Estimate for the rest of training."""


@dataclass(frozen=True)
class Checkpointed(Event):
    """A resumable checkpoint of optimiser step `step` is on disk."""

    step: int


@dataclass(frozen=True)
class EvaluationProgress(Event):
    """`done` of `total` items of a benchmark column are answered."""

    column: str
    done: int
    total: int
    blind: bool = False


@dataclass(frozen=True)
class Notice(Event):
    """One line that a person should see."""

    message: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True)
class RunFinished(Event):
    """A run has ended. `mean` is the unweighted mean of the benchmark scores (0..100), None without scores."""

    status: Status
    mean: float | None = None
    message: str = ""
    seconds: float = 0.0
    reused: bool = False
    """True when the run had ended earlier and nothing was computed."""


Reporter = Callable[[Event], None]


def silent(event: Event) -> None:
    """A reporter that drops everything."""


@dataclass(frozen=True)
class _Listener:
    prepared: Callable[[str, int, int], None]
    remarked: Callable[[str], None] | None
    process: int
    """Who listens; a forked child must not write into its parent's pipe."""


# Material is made deep inside sources and benchmarks, on first use; whoever started the work hears of it here.
_listener: ContextVar[_Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(
    prepared: Callable[[str, int, int], None], remarked: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Within this block, and this thread, `prepared(what, done, total)` hears what is being made, and `remarked` what a
    person should know of it, one line each."""
    token = _listener.set(_Listener(prepared, remarked, os.getpid()))
    try:
        yield
    finally:
        _listener.reset(token)


def preparing(what: str, done: int, total: int) -> None:
    """Tell whoever listens that `done` of `total` parts of `what` are made."""
    listener = _listener.get()
    if listener is not None and listener.process == os.getpid():
        listener.prepared(what, done, total)


def remark(message: str) -> None:
    """Tell whoever listens what a person should know; where nobody does, it goes to the log, which is stderr."""
    listener = _listener.get()
    if listener is not None and listener.remarked is not None and listener.process == os.getpid():
        listener.remarked(message)
    else:
        logging.getLogger("vlm_ablate").warning(message)


@dataclass
class Throttle:
    """True when `interval` seconds have passed since it was last true."""

    interval: float = 0.2
    _last: float = -math.inf

    def __call__(self) -> bool:
        """Whether it is time again."""
        now = time.monotonic()
        if now - self._last < self.interval:
            return False
        self._last = now
        return True
