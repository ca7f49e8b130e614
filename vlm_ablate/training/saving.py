"""How ranks write a checkpoint together: the first one all of it, or each its share while training goes on.

Either way `CheckpointFiles` alone makes it valid, once all of it is on the disk and the lease is still held.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, cast

import lightning.pytorch as pl
import torch.distributed as dist

from vlm_ablate.storage import storage_errors
from vlm_ablate.training import shards
from vlm_ablate.training.checkpoint import CheckpointFiles
from vlm_ablate.training.parallel import Sharded
from vlm_ablate.training.ranks import Ranks


class Saver(Protocol):
    """Writes checkpoints. Every rank has one and calls it alike."""

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """Write one, or begin to.

        Raises:
            StorageError: it, or the one before, cannot be written.
            LeaseLost: this process has lost the right to write there.
        """

    def valid(self) -> list[int]:
        """Steps whose checkpoints have become valid since this was asked last."""

    def finish(self) -> None:
        """Wait until what was begun is valid; raises as `save`."""


def saver(files: CheckpointFiles, ranks: Ranks) -> Saver:
    """What fits the way in which the ranks share the model."""
    return Shares(files, ranks) if ranks.sharded else Whole(files, ranks)


class Whole:
    """The first rank writes one file."""

    def __init__(self, files: CheckpointFiles, ranks: Ranks) -> None:
        self._files, self._ranks = files, ranks
        self._valid: list[int] = []

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """See `Saver.save`."""
        trainer.save_checkpoint(self._files.writing)
        if self._ranks.first:
            self._files.keep(step)
        self._valid.append(step)

    def valid(self) -> list[int]:
        """See `Saver.valid`."""
        found, self._valid = self._valid, []
        return found

    def finish(self) -> None:
        """See `Saver.finish`."""


class Shares:
    """Each rank writes its share, from a copy, in a thread. One checkpoint at a time: the next one waits for it."""

    def __init__(self, files: CheckpointFiles, ranks: Ranks) -> None:
        self._files, self._ranks = files, ranks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._begun: Future[int] | None = None
        self._valid: list[int] = []

    def save(self, trainer: pl.Trainer, step: int) -> None:
        """See `Saver.save`."""
        self.finish()
        if self._ranks.first and self._files.writing_shares.exists():
            shutil.rmtree(self._files.writing_shares)  # a try that failed
        folder = Path(self._ranks.said_by_first(str(self._files.writing_shares)))
        trainer.save_checkpoint(folder)
        writing = cast(Sharded, trainer.strategy).writing
        assert writing is not None  # it was begun just now
        self._begun = self._thread.submit(self._complete, writing, folder, step)

    def valid(self) -> list[int]:
        """See `Saver.valid`."""
        if self._begun is not None and self._begun.done():
            self.finish()
        found, self._valid = self._valid, []
        return found

    def finish(self) -> None:
        """See `Saver.finish`."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self._valid.append(begun.result())

    def _complete(self, writing: Future[Any], folder: Path, step: int) -> int:
        """Wait for this rank's share; the first one then hears the checksums of all and makes the whole valid."""
        with storage_errors("write", folder):
            try:
                writing.result()
            except BaseException as error:
                raise shards.failure(error, folder) from None
            own = shards.written_by(folder, self._ranks.place.rank)
        group = self._ranks.writers
        parts: list[dict[str, str]] | None = [{}] * self._ranks.place.world if self._ranks.first else None
        dist.gather_object(own, parts, dst=0, group=group)
        if parts is not None:
            self._files.keep(step, {name: digest for part in parts for name, digest in part.items()})
        return step
