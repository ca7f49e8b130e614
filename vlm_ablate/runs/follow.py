"""A rank that is not the first: `python -m vlm_ablate.runs.follow ADDRESS PORT GROUP RANK WORLD DEVICES`.

Started by `group.py`, or on another machine by `launch/seats.py`. It trains the stages that the first rank names, in
step with it, and records and reports nothing.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from vlm_ablate.data.dataset import build_mixtures
from vlm_ablate.data.mixture import Mixture
from vlm_ablate.errors import Diverged, VlmAblateError
from vlm_ablate.home import Home
from vlm_ablate.models.trained_state import trainable_state_dict
from vlm_ablate.runs.folder import StageFolder
from vlm_ablate.runs.group import END, SETUP, identity
from vlm_ablate.runs.job import stage_job
from vlm_ablate.runs.meeting import failed_name, identity_name
from vlm_ablate.runs.spec import RunSpec
from vlm_ablate.runs.stage_model import StageModel, seen_before
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.fit import configure_threads
from vlm_ablate.training.interruption import Interruption, StopRequested
from vlm_ablate.training.ranks import PATIENCE, Place, Ranks
from vlm_ablate.training.stages import train_stage

LOOK_SECONDS = 0.1
CONNECT_SECONDS = 60


def main() -> int:
    """Follow until the first rank says so or is gone."""
    address, port, group = sys.argv[1:4]
    rank, world, devices = (int(argument) for argument in sys.argv[4:7])
    _end_with_the_first()
    reached = TCPStore(address, int(port), timeout=timedelta(seconds=CONNECT_SECONDS))
    reached.set_timeout(PATIENCE)
    store = PrefixStore(group, reached)
    interruption = Interruption()
    try:
        told = json.loads(store.get(SETUP))
        sys.path[:] = list(dict.fromkeys([*told["path"], *sys.path]))
        configure_threads()
        spec = RunSpec.from_dict(told["spec"])
        store.set(identity_name(rank), json.dumps(identity(spec)))
        ranks = Ranks(Place(rank, world, told["strategy"], devices, told["near"]), store)
        follower = _Follower(spec, Home(Path(told["home"])), ranks, interruption)
        with interruption.handling_signals():
            _follow(store, follower)
        ranks.close()
        return 0
    except BaseException as error:
        traceback.print_exc()
        ours = isinstance(error, VlmAblateError)
        message = str(error) if ours else f"{type(error).__name__}: {error}"
        store.set(failed_name(rank), json.dumps({"reason": ours, "message": message}))
        return 1


def _follow(store: Store, follower: _Follower) -> None:
    number = 0
    while True:
        while not store.check([f"command/{number}"]):
            time.sleep(LOOK_SECONDS)
        command = json.loads(store.get(f"command/{number}"))
        if END in command:
            return
        follower.train(command["stage"], command["before"], command["flops"])
        number += 1


class _Follower:
    """This rank's model and data."""

    def __init__(self, spec: RunSpec, home: Home, ranks: Ranks, interruption: Interruption) -> None:
        self._spec, self._home, self._ranks, self._interruption = spec, home, ranks, interruption
        self._model = StageModel(spec, home)
        self._mixtures: list[Mixture] = []

    def train(self, index: int, before: str | None, flops: Sequence[float] | None) -> None:
        """One stage, to its end or as far as all ranks go."""
        spec, ranks = self._spec, self._ranks
        if not self._mixtures:
            data = {name: stage.data for name, stage in spec.config.stages.items()}
            self._mixtures = list(build_mixtures(data, spec.seeds.data).values())
        parent = StageFolder(self._home.stages / before) if before else None
        vlm, seen = self._model.ready(index, parent, ranks), seen_before(parent)
        vlm.features = None
        # The first rank names the file to go on from, and writes.
        job = stage_job(
            self._model, index, vlm, self._mixtures[index], seen, checkpoints=CheckpointFiles(self._home.stages),
            interruption=self._interruption, flops=flops, ranks=ranks,
        )  # fmt: skip
        try:
            train_stage(job)
        except (Diverged, StopRequested):
            return  # so do all ranks, and the first one tells it
        if ranks.sharded:
            trainable_state_dict(vlm)  # the first rank gathers and writes it
        # What the next stage begins with is read from the first rank's file: it is the same for all.
        self._model.trained(None)


def _end_with_the_first() -> None:
    """A rank has nobody to train for once the first is gone, or who has started it on another machine."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="first rank", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
