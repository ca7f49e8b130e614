"""Results put aside, so that they are computed again. They are kept: a result is never deleted by a command."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vlm_ablate.home import Home
from vlm_ablate.lease import Lease
from vlm_ablate.lease_files import Owner
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.names import asked_for
from vlm_ablate.runs.results import find_stages
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.storage import storage_errors
from vlm_ablate.tracking.publish import begin_again

ASIDE = "earlier"
"""Folder below the stages' that holds what was put aside."""


def put_aside(
    specs: Sequence[RunSpec], home: Home, notice: Callable[[str], object] = lambda message: None
) -> list[Path]:
    """Move the stages of these runs, with their scores, out of the way; returns where they are now.

    In a tracking store the earlier results stay, as a run that is no longer read for tables; also those of other runs,
    of any table, that have one of these stages.

    Args:
        notice: hears which process is waited for, as it computes one of the stages now.

    Raises:
        StorageError: a folder cannot be moved.
    """
    stages: dict[str, StageFolder] = {}
    for spec in specs:
        stages |= {stage.root.name: stage for stage in find_stages(spec, home)}
    moved = []
    stamp = time.strftime("%Y%m%d-%H%M%S")
    told: set[str] = set()

    def waiting(owner: Owner | None) -> None:
        message = f"stage {stage.root.name} waits for {owner or 'another process'}, which computes it now"
        if message not in told:
            told.add(message)
            notice(message)

    for stage in stages.values():
        target = home.stages / ASIDE / f"{stage.root.name}-{stamp}"
        with Lease.acquire(stage.root, waiting=waiting), storage_errors("move", stage.root):
            target.parent.mkdir(exist_ok=True)
            os.rename(stage.root, target)
        moved.append(target)
    keys = {stage.key for stage in stages.values()}
    for folder, body in asked_for(home):
        if keys.intersection(body["stages"]):
            begin_again(folder.published)
    return moved
