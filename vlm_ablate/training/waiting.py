"""How long training waits for its data: whether more loader processes, or pictures prepared beforehand, would help."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class Waiting(Callback):
    """Adds up the seconds from the end of a micro-batch until the next one is there.

    It stands last among the callbacks, so that what they do (scores along the way, checkpoints) is no waiting. With a
    GPU these are seconds of the host, in which the GPU may still be busy with what it was given before.
    """

    def __init__(self) -> None:
        self._since = self._seconds = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        self._seconds += time.perf_counter() - self._since

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._since = time.perf_counter()

    def take(self) -> float:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
